"""A slot of a worker: who has it runs; who only waits lets others have it."""

from __future__ import annotations

from anyio import CapacityLimiter

__all__ = ["Slot"]


class Slot:
    """One of the slots of a worker, as the run has it that it was given to."""

    __slots__ = ("_is_held", "_is_over", "_is_wanted", "_slots")

    def __init__(self, slots: CapacityLimiter) -> None:
        self._slots = slots
        self._is_held = False
        self._is_wanted = False
        self._is_over = False

    def take_nowait(self) -> None:
        """Take it if one is free. Nothing, if it is held, or waited for already.

        Raises:
            anyio.WouldBlock: none is.
        """
        if self._is_held or self._is_wanted or self._is_over:
            return
        self._slots.acquire_on_behalf_of_nowait(self)
        self._is_held = True

    async def take(self) -> None:
        """Wait until one is free, and take it. Nothing, if it is held, or waited for already."""
        if self._is_held or self._is_wanted or self._is_over:
            return
        self._is_wanted = True
        try:
            await self._slots.acquire_on_behalf_of(self)
            self._is_held = True
        finally:
            self._is_wanted = False
        if self._is_over:
            self.give_back()

    def give_back(self) -> None:
        """Let others have it. Nothing, if it is not held."""
        if self._is_held:
            self._is_held = False
            self._slots.release_on_behalf_of(self)

    def end(self) -> None:
        """Let others have it for good: the run is over, whatever it has left behind."""
        self._is_over = True
        self.give_back()
