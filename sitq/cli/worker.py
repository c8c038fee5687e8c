"""``sitq worker``: runs the tasks of an application, in this process or in several."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from sitq.cli.application import load, told
from sitq.cli.reload import changes
from sitq.cli.store import BackendName, backend_named, run
from sitq.cli.supervisor import Supervisor
from sitq.cli.tether import run_tethered
from sitq.errors import SitqError
from sitq.options import check_queues, check_seconds
from sitq.worker import Worker

__all__ = ["add_to"]


class LoopName(StrEnum):
    """The event loops."""

    ASYNCIO = "asyncio"
    TRIO = "trio"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


App = Annotated[
    str,
    typer.Argument(
        metavar="APP",
        show_default=False,
        help="The module to import, such as shop.tasks; or module:name of a Registry, of a Worker, "
        "or of a function that returns a Worker.",
    ),
]
Queues = Annotated[
    str | None, typer.Option(metavar="A,B", help="Serve these queues only. Default: all.")
]
Concurrency = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=100_000, help="Tasks at a time, a process. Default: 10."),
]
Processes = Annotated[
    int, typer.Option(metavar="N", min=1, max=1_000, help="Another is started when one ends.")
]
Loop = Annotated[LoopName, typer.Option(help="The event loop.")]
Grace = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="For running tasks at a stop. Default: 20."),
]
Lease = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="After which tasks of a dead worker go back. Default: 15."
    ),
]
Reload = Annotated[bool, typer.Option("--reload", help="Start again when a .py file has changed.")]
Level = Annotated[
    LogLevel, typer.Option(case_sensitive=False, help="What is logged, to standard error.")
]


def add_to(app: typer.Typer) -> None:
    """Give the application these commands."""
    app.command("worker")(work)


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line says about a worker; None is what it leaves to the default."""

    app: str
    store: str | None
    is_store_given: bool
    """On the command line, and not by the environment."""
    queues: list[str] | None
    concurrency: int | None
    grace: float | None
    lease: float | None
    loop: LoopName
    log_level: LogLevel

    def check(self) -> None:
        """Refuse what can be refused before anything is imported.

        Raises:
            InvalidOption: an option has a value outside what it takes.
            ImportError: what it needs is not installed.
        """
        check_queues(self.queues)
        if self.grace is not None:
            check_seconds("grace", self.grace)
        if self.lease is not None:
            check_seconds("lease", self.lease, 0.1)
        if self.store is not None:
            backend_named(self.store)
        if self.loop is LoopName.TRIO and importlib.util.find_spec("trio") is None:
            raise ImportError("--loop trio needs trio: pip install 'sitq[trio]'")

    def worker(self) -> Worker:
        """The worker, of the application that is imported for it.

        Raises:
            NoApplication: the application cannot be had.
            typer.BadParameter: it is a worker, and an option is given that it has itself; or no
                store is named.
        """
        found = load(self.app)
        if isinstance(found, Worker):
            self._refuse_for_worker()
            return found
        given = {name: value for name, value in self._of_worker() if value is not None}
        return Worker(backend_named(self.store), registry=found, **given)

    def arguments(self) -> list[str]:
        """The command line of a process that is to do the same."""
        queues = None if self.queues is None else ",".join(self.queues)
        options = (
            ("--backend", self.store if self.is_store_given else None),
            ("--queues", queues),
            ("--concurrency", self.concurrency),
            ("--grace", self.grace),
            ("--lease", self.lease),
            ("--loop", self.loop),
            ("--log-level", self.log_level),
        )
        return [
            "worker",
            self.app,
            *(f"{name}={value}" for name, value in options if value is not None),
        ]

    def log(self) -> None:
        """Log to standard error, unless the application has set up logging by itself."""
        logging.basicConfig(
            level=self.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )

    def _of_worker(self) -> list[tuple[str, Any]]:
        return [
            ("queues", self.queues),
            ("max_concurrency", self.concurrency),
            ("grace", self.grace),
            ("lease", self.lease),
        ]

    def _refuse_for_worker(self) -> None:
        given = [
            f"--{name.removeprefix('max_')}"
            for name, value in self._of_worker()
            if value is not None
        ]
        given += ["--backend"] * self.is_store_given
        if given:
            raise typer.BadParameter(
                f"leave out {' and '.join(given)}: {self.app} is a worker that has its own"
            )


def work(
    context: typer.Context,
    app: App,
    *,
    backend: BackendName = None,
    queues: Queues = None,
    concurrency: Concurrency = None,
    processes: Processes = 1,
    loop: Loop = LoopName.ASYNCIO,
    grace: Grace = None,
    lease: Lease = None,
    reload: Reload = False,
    log_level: Level = LogLevel.INFO,
    under: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the tasks of an application until a signal.

    APP is imported, with the current folder first on the path. The worker
    runs the functions in it that are decorated with @task. A Worker that it
    names has a store and options of its own.

    SIGTERM, SIGINT (Ctrl-C) and SIGHUP stop it gracefully: running tasks get
    the grace. A second signal gives back at once what still runs; a third
    ends the process.
    """
    source = context.get_parameter_source("backend")
    order = Order(
        app=app,
        store=backend or None,
        is_store_given=source is not None and source.name == "COMMANDLINE",
        queues=None if queues is None else [name.strip() for name in queues.split(",")],
        concurrency=concurrency,
        grace=grace,
        lease=lease,
        loop=loop,
        log_level=log_level,
    )
    order.check()
    if under is None and (reload or processes > 1):
        _supervise(order, processes, reload=reload)
    else:
        _work_here(order, under)


def _work_here(order: Order, under: int | None) -> None:
    worker = order.worker()
    order.log()
    serve = partial(worker.run, handle_signals=True)
    if under is not None:
        serve = partial(run_tethered, worker, under)
    try:
        run(serve, loop=order.loop)
    except (SitqError, typer.Exit):
        raise
    except Exception as error:  # of the lifespan
        raise SitqError(f"the worker broke: {told(error)}") from None


def _supervise(order: Order, processes: int, *, reload: bool) -> None:
    order.log()
    supervisor = Supervisor(order.arguments(), processes)
    watch = changes(order.app) if reload else None
    raise typer.Exit(run(partial(supervisor.run, watch)))
