"""What runs in a process that a worker has started: one function after the other."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from sitq import context
from sitq.errors import UnknownTask
from sitq.failure import describe, summary
from sitq.model import Outcome
from sitq.worker.outcome import failed, untransferable
from sitq.worker.program import STOPS, Answer, Program, Request, dumps, find, loads

__all__ = ["main"]


def main(descriptor: int) -> None:
    """Answer the worker at the other end of a socket until that is closed."""
    context.is_process_of_worker = True
    with suppress(EOFError, OSError), socket.socket(fileno=descriptor) as channel:
        channel.set_inheritable(False)  # it is to close when this process ends
        _Child(channel).serve()


class _Child:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._stream = channel.makefile("rwb")
        self._id = os.getpid()
        self._runs = False
        self._before = {one: signal.getsignal(one) for one in STOPS}

    def serve(self) -> None:
        """Answer what is asked until the worker ends the process, or itself."""
        with self._stream:
            self._pass_over_stops()
            self._watch_worker()
            os.register_at_fork(after_in_child=self._let_go)
            program: Program = pickle.load(self._stream)
            sys.argv[:] = program.argv
            while True:
                answer = self._answer(pickle.load(self._stream), program)
                pickle.dump(answer, self._stream)
                self._stream.flush()

    def _answer(self, request: Request, program: Program) -> Answer:
        module, qualname, arguments = request
        self._runs = True
        self._end_with_worker()
        try:
            function = find(module, qualname, program)
            args, kwargs = loads(arguments, program)
        except BaseException as error:
            return b"", _not_loaded(f"{module}.{qualname}", error)
        else:
            return _called(function, args, kwargs)
        finally:
            self._runs = False

    def _pass_over_stops(self) -> None:
        """What stops the worker may be sent to its processes too, which end when that wants it.

        An exec resets a handler: what a function starts is not to ignore signals as well.
        """
        for one in STOPS:
            if self._before[one] is not signal.SIG_IGN:
                signal.signal(one, _pass_over)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # since before this process began

    def _watch_worker(self) -> None:
        """Be told by a signal when the worker is there no more, whatever runs then."""
        signal.signal(signal.SIGIO, self._end_with_worker)
        fcntl.fcntl(self._channel, fcntl.F_SETOWN, self._id)
        flags = fcntl.fcntl(self._channel, fcntl.F_GETFL)
        fcntl.fcntl(self._channel, fcntl.F_SETFL, flags | os.O_ASYNC)

    def _end_with_worker(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End, with all that was started here, if a function runs that nobody waits for."""
        if self._runs and os.getpid() == self._id and _is_closed(self._channel):
            os.killpg(self._id, signal.SIGKILL)

    def _let_go(self) -> None:
        """In what a function has forked: the socket is to close when this process ends.

        The stream is left as it is: another thread may have been reading it, whose lock stays.
        """
        with suppress(OSError):  # below a fork of a fork it is closed
            os.close(self._channel.detach())
        for one in STOPS:
            if signal.getsignal(one) is _pass_over:
                signal.signal(one, self._before[one])


def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
    try:
        value = function(*args, **kwargs)
    except BaseException as error:
        return b"", failed(error)
    finally:
        with suppress(Exception):  # it may have closed it
            sys.stdout.flush()
    try:
        return dumps(value), None
    except BaseException as error:
        return b"", untransferable("what it returned", error)


def _not_loaded(function: str, error: BaseException) -> Outcome:
    reason = summary(describe(error))
    unknown = UnknownTask(f"its process cannot load {function} and its arguments: {reason}")
    unknown.__cause__ = error
    return failed(unknown)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """The handler of signals that are not for this process."""


def _is_closed(channel: socket.socket) -> bool:
    try:
        return not channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
