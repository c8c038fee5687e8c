"""Programs with a sync queue: they end, are interrupted, and fork."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from sitq import State, SyncTaskQueue

PATIENCE = 30.0
BEGIN = """
import os, signal, sys, threading, time, types, warnings
from sitq import SyncTaskQueue, task
from sitq.errors import NotOpen

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if we run in the background

@task(name="echo")
def echo(value):
    return value

queue = SyncTaskQueue(sys.argv[1], loop=sys.argv[2])
"""


def program(url: str, loop: str, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", BEGIN + text, url, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How it ended, and what it had printed."""
    with process:
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, output, errors


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The same, with a Ctrl-C once it has printed something."""
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    return outcome(process)


# A program that ends.

NEVER_CLOSED = """
for value in range(20):
    handle = queue.enqueue(echo, value)
thread = threading.Thread(target=handle.result, daemon=True)
thread.start()
with queue.task_group() as tg:
    tg.cancel()
"""


def test_one_that_never_closes_it_ends_and_loses_nothing(url: str, loop: str) -> None:
    assert outcome(program(url, loop, NEVER_CLOSED)) == (0, "", "")
    with SyncTaskQueue(url) as queue:
        assert queue.counts()[State.PENDING] == 20


FAILS = """
with queue.task_group() as tg:
    tg.enqueue(echo, 1)
    raise LookupError("mine")
"""


def test_one_that_fails_in_a_block_cancels_the_tasks(file_url: str, loop: str) -> None:
    code, _, errors = outcome(program(file_url, loop, FAILS))
    assert code == 1
    assert "LookupError: mine" in errors
    assert "Exception ignored" not in errors
    with SyncTaskQueue(file_url) as queue:
        assert queue.counts()[State.CANCELLED] == 1


HOLDS_A_BLOCK = """
def results():
    with queue, queue.map(echo, range(3)):
        yield

class Late:
    def __del__(self):
        try:
            queue.enqueue(echo, 1)
        except NotOpen as error:
            print(error, flush=True)

kept = sys.modules["kept"] = types.ModuleType("kept")  # modules are dropped at the very end
kept.taken, kept.late = results(), Late()
next(kept.taken)
del kept
"""


def test_one_that_holds_a_block_or_asks_for_more_at_its_end_ends(file_url: str, loop: str) -> None:
    code, output, errors = outcome(program(file_url, loop, HOLDS_A_BLOCK))
    assert (code, errors) == (0, "")
    assert output == "the program ends: nothing can use the queue any more\n"


# Ctrl-C.

WAITS = """
handle = queue.enqueue(echo, 1)
try:
    print("waits", flush=True)
    handle.result()
except KeyboardInterrupt:
    print(handle.status(), queue.enqueue(echo, 2).status())
"""


def test_an_interrupt_ends_a_wait_and_not_the_task(url: str, loop: str) -> None:
    code, output, errors = interrupted(program(url, loop, WAITS))
    assert (code, output, errors) == (0, "pending pending\n", "")


UNHEARD = """
import _thread, traceback

def main_waits():
    stack = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])
    return [frame.name for frame in stack][-3:] == ["wait"] * 3  # of future, event and condition

def interrupt():
    while not main_waits():
        time.sleep(0.001)
    _thread.interrupt_main()  # takes note of a signal, and wakes nobody up

handle = queue.enqueue(echo, 1)
threading.Thread(target=interrupt, daemon=True).start()
try:
    handle.result()
except KeyboardInterrupt:
    print(handle.status())
"""


def test_an_interrupt_is_heard_that_comes_just_before_the_wait(url: str, loop: str) -> None:
    assert outcome(program(url, loop, UNHEARD)) == (0, "pending\n", "")


IN_A_BLOCK = """
with queue.task_group() as tg:
    tg.enqueue(echo, 1)
    print("waits", flush=True)
    while True:
        time.sleep(0.1)  # one that comes just before a sleep does not end it
"""
AT_THE_END_OF_A_BLOCK = """
def tell(left):
    while not left.done():
        time.sleep(0.001)
    print("waits", flush=True)

with queue.task_group() as tg:
    tg.enqueue(echo, 1)
    threading.Thread(target=tell, args=(tg._block._left,), daemon=True).start()
"""
IN_A_MAP = """
def tell():
    while len(queue.find()) < 3:
        time.sleep(0.01)
    print("waits", flush=True)

threading.Thread(target=tell, daemon=True).start()
with queue.map(echo, range(3)) as results:
    next(results)
"""


@pytest.mark.parametrize(
    "text", [IN_A_BLOCK, AT_THE_END_OF_A_BLOCK, IN_A_MAP], ids=["body", "end", "map"]
)
def test_an_interrupt_ends_a_block_and_its_tasks(file_url: str, loop: str, text: str) -> None:
    code, _, errors = interrupted(program(file_url, loop, text))
    assert code == -signal.SIGINT, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Group" not in errors
    with SyncTaskQueue(file_url) as queue:
        counts = queue.counts()
        assert counts[State.CANCELLED] == sum(counts.values()) > 0


# Forks.

FORKS = """
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

def child(use):
    pid = os.fork()
    if pid == 0:
        try:
            use()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0

def stores():
    threads = [threading.Thread(target=queue.enqueue, args=(echo, 1)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [t.name for t in threading.enumerate()].count("sitq-portal") == 1
    assert len(queue.find(limit=10_000)) % 4 == 0

def is_refused():
    try:
        queue.enqueue(echo, 1)
    except NotOpen as error:
        assert "before a fork" in str(error), error
    else:
        raise AssertionError
    queue.close()

child(stores)             # not used before
child(stores)
with queue:
    stores()
    child(is_refused)     # open at the fork
    stores()              # the child has left it as it was
child(stores)             # closed before
with queue:
    assert len(queue.find(limit=10_000)) == 20
"""


def test_a_fork(url: str, loop: str) -> None:
    assert outcome(program(url, loop, FORKS)) == (0, "", "")


IMPORTS = """
class Finder:
    def find_spec(self, name, *_):
        if threading.current_thread().name == "sitq-portal" and name.startswith("anyio"):
            print(name)

sys.meta_path.insert(0, Finder())
with queue, queue.task_group() as tg:
    tg.enqueue(echo, 1)
    tg.cancel()
"""


def test_a_fork_while_it_is_opened_finds_its_loop_imported(file_url: str, loop: str) -> None:
    assert outcome(program(file_url, loop, IMPORTS)) == (0, "", "")


LEAVES_IN_THE_CHILD = """
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
with queue, queue.task_group() as tg:
    handle = tg.enqueue(echo, 1)
    pid = os.fork()
    if pid:
        tg.cancel()
if pid == 0:
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0
with queue:
    assert handle.status() == "cancelled"
"""


def test_a_child_leaves_what_its_parent_has_entered(url: str, loop: str) -> None:
    assert outcome(program(url, loop, LEAVES_IN_THE_CHILD)) == (0, "", "")
