"""How things are named: classes and modules in the store, values in messages."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Final

__all__ = [
    "MAIN",
    "class_name",
    "importable_module_name",
    "is_importable",
    "shown",
    "signal_name",
]

MAIN: Final = ("__main__", "__mp_main__")
"""Names of the main module: of what was started, and in processes which that has started."""


def shown(value: object) -> str:
    """A bounded repr, also of values that have none, such as a number of 10,000 digits."""
    try:
        return f"{value!r:.80}"
    except Exception:
        return f"<{type(value).__name__}>"


def signal_name(number: int) -> str:
    """The name of a signal, or its number: real-time signals have no names."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def class_name(cls: type) -> str:
    """The qualified name of a class, the same in every process."""
    return f"{importable_module_name(cls.__module__)}.{cls.__qualname__}"


def is_importable(module: str) -> bool:
    """Whether another process can import a module: there is no source of what is typed in."""
    if module not in MAIN:
        return True
    main = sys.modules.get(module) or sys.modules.get("__main__")
    return bool(getattr(main, "__spec__", None) or getattr(main, "__file__", None))


def importable_module_name(module: str) -> str:
    """The name under which every process knows a module, also one that was run as a script.

    Args:
        module: a ``__module__``. ``__main__`` and ``__mp_main__`` become the name that was given to
            ``python -m``, else the stem of the script's file; interactive, it stays ``__main__``.
    """
    if module not in MAIN:
        return module
    main = sys.modules.get(module) or sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None)
    file = getattr(main, "__file__", None)
    if name and name not in MAIN:
        return name
    return Path(file).stem if file else "__main__"
