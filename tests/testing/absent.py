"""A Python that has not got everything installed."""

from __future__ import annotations

__all__ = ["without"]

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def without(*modules: str) -> str:
    """What a program begins with to which these modules are not to be had."""
    return ABSENT.replace("MODULES", repr(modules))
