"""Task functions that run in processes. What they tell the test of themselves goes into files."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sitq import Registry, Retry, current_task, serializable

registry = Registry()
QUICK = Retry(attempts=2, base=0.01, cap=0.02)


@serializable
class Colour(Enum):
    RED = 1


@serializable
@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: Any


@registry.task(executor="process")
def echo(*values: Any, **named: Any) -> list[Any]:
    return [*values, named]


@registry.task(executor="process")
def pid() -> int:
    return os.getpid()


@registry.task(executor="process")
def pid_when_all_are_here(folder: str, number: int) -> int:
    Path(folder, str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < number:
        pass
    return os.getpid()


@registry.task(executor="process")
def pid_beside_a_thread(folder: str, number: int) -> int:
    """With a thread left behind that never ends, and keeps the process from ending."""
    threading.Thread(target=threading.Event().wait).start()
    return pid_when_all_are_here.function(folder, number)


class Slots:
    @staticmethod
    @registry.task(executor="process")
    def of_a_class() -> str:
        return "found"


def noisy(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return "wrapped", function(*args)

    return wrapper


@registry.task(executor="process")
@noisy
def wrapped_below() -> int:
    return 1


@noisy
@registry.task(executor="process")
def wrapped_above() -> int:
    return 2


@noisy
def _registered_later() -> int:
    return 3


registered_later = registry.task(executor="process", name="registered_later")(_registered_later)


def _nowhere() -> None: ...


_nowhere.__qualname__ = "nobody_is_here"
nowhere = registry.task(executor="process", name="nowhere", retry=QUICK)(_nowhere)


class Unportable(Exception):
    """One that no pickle could take anywhere."""

    def __init__(self, text: str, lock: object) -> None:
        super().__init__(text)
        self.lock = lock


@registry.task(executor="process", retry=Retry(attempts=3, base=0, retry_on=[ConnectionError]))
def fails(kind: str, folder: str) -> None:
    with Path(folder, kind).open("a") as file:
        file.write("x")
    errors: dict[str, BaseException] = {
        "unportable": Unportable("locked", threading.Lock()),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "retried": ConnectionResetError("again"),
        "group": ExceptionGroup("many", [ValueError("a")]),
    }
    try:
        raise LookupError("before")
    except LookupError as error:
        raise errors[kind] from error


@registry.task(executor="process", retry=QUICK)
def returns(kind: str) -> Any:
    return {"object": object(), "lambda": lambda: 1, "lock": threading.Lock()}[kind]


@registry.task(executor="process")
def asks_who_it_is() -> None:
    current_task()


def tell(folder: str, name: str, number: int) -> None:
    """Write a number into a file; whoever waits for that sees it whole."""
    Path(folder, f".{name}").write_text(str(number))
    Path(folder, f".{name}").rename(Path(folder, name))


@registry.task(executor="process")
def for_ever(folder: str) -> None:
    """With something that it has started."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    tell(folder, "started", started.pid)
    tell(folder, "process", os.getpid())
    started.wait()


@registry.task(executor="process", timeout=0.1)
def for_ever_with_a_timeout(folder: str) -> None:
    for_ever.function(folder)


@registry.task(executor="process")
def spins(folder: str) -> None:
    tell(folder, "process", os.getpid())
    while True:
        pass


@registry.task(executor="process")
def waits_for(folder: str, name: str) -> str:
    tell(folder, "process", os.getpid())
    while not Path(folder, name).exists():
        pass
    return "seen"


@registry.task(executor="process", retry=QUICK)
def dies_once(folder: str) -> str:
    if not Path(folder, "died").exists():
        Path(folder, "died").touch()
        os.abort()
    return "alive"


@registry.task(executor="process")
def dies(how: str, folder: str) -> None:
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(3)
    if how == "fork" and not (forked := os.fork()):
        signal.pause()
    if how == "fork":  # what it has forked does not keep the worker waiting
        tell(folder, "started", forked)
    if how == "close":
        os.closerange(3, 100)
        signal.pause()
    if how == "real-time":
        os.kill(os.getpid(), 40)
    if how == "shell":  # it inherits whatever can be inherited
        os.system(f"sleep 1000 & echo $! >{folder}/sleeps")
    os.kill(os.getpid(), signal.SIGKILL)


@registry.task(executor="process")
def forks_later(folder: str) -> int:
    """From a thread that it leaves behind, when this process waits for something to run."""

    def fork() -> None:
        while not Path(folder, "go on").exists():
            pass
        if not os.fork():
            tell(folder, "forked", os.getpid())
            signal.pause()

    threading.Thread(target=fork, daemon=True).start()
    return os.getpid()


@registry.task(executor="process")
def uses_its_streams() -> tuple[str, int]:
    print("printed")
    subprocess.run([sys.executable, "-c", "print('from below')"], check=True)
    os.write(2, b"." * 200_000)
    return sys.stdin.read(), subprocess.run("cat", check=True).returncode


@registry.task(executor="process")
def handlers() -> dict[str, tuple[bool, bool]]:
    """Whether stops end this process, and what it starts, by fork and by exec."""
    script = "import signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    started = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    if not (forked := os.fork()):
        os._exit(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    _, status = os.waitpid(forked, 0)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return {
        "here": (signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, bool(blocked)),
        "below": (os.waitstatus_to_exitcode(status) == 1, started.stdout == b"True\n"),
    }
