"""The command ``sitq``: one typer application, whose commands stand in the modules beside it.

Exit codes: 0 it was done; 1 it was refused, or failed; 2 the command was written wrongly; 130 it
was interrupted; 128 + N a worker was ended by a second signal N.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from sitq.cli import change, demo, doctor, enqueue, look, show, upgrade, watch, worker
from sitq.cli.application import NoApplication
from sitq.cli.output import complain
from sitq.cli.store import DONE, FAILED, INTERRUPTED, WRONG
from sitq.errors import InvalidArguments, InvalidOption, SitqError

__all__ = ["app", "main"]

app: typer.Typer = typer.Typer(
    name="sitq",
    help="A durable task queue made of structured concurrency.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (demo, worker, enqueue, look, show, watch, change, doctor, upgrade):
    _module.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sitq {version('sitq')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Run workers, and look at what is in a store."""


def main() -> None:
    """Run the command that the arguments of the program name, and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by who has started the program
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", closefd=False))
        stream: object = getattr(sys, name)
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    """The exit code of the command. Its error is one line that says what to do."""
    try:
        return app(prog_name="sitq", standalone_mode=False) or DONE
    except NoApplication as error:
        complain(error.message)
        return error.exit_code
    except typer.TyperException as error:
        if error.format_message():  # without any argument the help was printed
            complain(f"{error.format_message()} (sitq --help tells more)")
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # who read it has left: nothing is to be flushed at the end
        return FAILED
    except (InvalidOption, InvalidArguments) as error:
        complain(f"{error} (sitq --help tells more)")
        return WRONG
    except (SitqError, ImportError, OSError) as error:
        complain(str(error) or type(error).__name__)
        return FAILED
