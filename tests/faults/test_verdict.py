"""The proof can fail: whatever promise is broken, the verdict says so."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sitq import Retry, lifecycle
from sitq.backends.base import Wanted
from sitq.backends.sqlite import recovery, verbs
from sitq.backends.sqlite.connect import Database
from sitq.backends.sqlite.inserting import insert
from sitq.backends.sqlite.settling import settle
from sitq.calls import new_ids
from sitq.model import NewTask, Outcome, OutcomeKind, WorkerRecord

from .crash.journal import Journal, install
from .crash.roles import CRASH_LIMIT
from .crash.verdict import Verdict, judge

DEAD, ALIVE = 1, 2
"""The ids of two processes, and of the workers in them."""


class Story:
    """A task whose first worker dies, and that the second one brings home; step by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "tasks.db"
        self.died = 0.0
        self.store = Database(str(self.path), "NORMAL", 5.0).create()
        install(self.path)
        self.tries = Journal(folder / "e0.tries.jsonl")
        self.runs = Journal(folder / "w0.runs.jsonl")
        for pid in (DEAD, ALIVE):
            recovery.hire(self.store, WorkerRecord("here", pid, None, 1, 1.0), 0.0, 0.0)

    def enqueue(self, *tokens: str) -> None:
        now = time.time()
        ids = new_ids(now, len(tokens))
        self.tries.write(op="try", tokens=tokens, kinds=["plain"] * len(tokens))
        for id, token in zip(ids, tokens, strict=True):
            arguments = token.encode()
            task = NewTask(id, "f", "q", 0, now, None, None, None, None, arguments, now)
            insert(self.store, [task])
        self.tries.write(op="ack", tokens=tokens, ids=[id.hex() for id in ids])

    def begin(self, worker: int, token: str = "<a>") -> None:
        [self.task], _ = verbs.reserve(self.store, worker, Wanted(1, None), time.time())
        self.about = {"token": token, "seq": self.task.seq, "fence": self.task.fence}
        self.runs.write(op="start", attempt=self.task.attempts + 1, pid=worker, **self.about)

    def crash(self) -> None:
        self.died = time.time()
        self.store.execute(verbs.SQL["suspect"], (1.0, "boot", DEAD))
        recovery._take(self.store, DEAD, time.time(), CRASH_LIMIT)
        self.dismiss(DEAD)

    def end(self) -> None:
        self.runs.write(op="end", how="returned", pid=ALIVE, **self.about)

    def settle(self) -> None:
        outcome = Outcome(OutcomeKind.SUCCEEDED, value=b"")
        change = lifecycle.settle(self.task, Retry(), outcome, 0.0, random.Random(0))
        assert change is not None
        settle(self.store, ALIVE, [change], time.time())

    def dismiss(self, worker: int) -> None:
        self.store.execute(verbs.SQL["dismiss"], (worker,))

    def change(self, columns: str) -> None:
        self.store.execute(f"UPDATE sitq_task SET {columns}")

    def tell(self) -> None:
        """All of it, as it must be."""
        self.enqueue("<a>")
        self.begin(DEAD)
        self.crash()
        self.begin(ALIVE)
        self.end()
        self.settle()
        self.dismiss(ALIVE)

    def verdict(self) -> Verdict:
        self.store.close()
        return judge(self.path, self.folder, {DEAD: [self.died]}, {})


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    story = Story(tmp_path)
    yield story
    for journal in (story.tries, story.runs):
        journal.close()


def test_an_honest_story_is_believed(story: Story) -> None:
    story.tell()
    verdict = story.verdict()
    assert verdict.violations == []
    assert (verdict.tasks, verdict.acknowledged, verdict.settled, verdict.live) == (1, 1, 1, 0)
    assert (verdict.runs, verdict.killed_runs, verdict.living_recovered) == (2, 1, 0)
    assert verdict.moves == {"reserved": 2, "crashed": 1, "succeeded": 1}


def gone(story: Story) -> None:
    story.tell()
    story.store.execute("DROP TRIGGER journal_pruned")
    story.store.execute("DELETE FROM sitq_task")


def never_stored(story: Story) -> None:
    story.tell()
    story.tries.write(op="try", tokens=["<b>"], kinds=["plain"])
    story.tries.write(op="ack", tokens=["<b>"], ids=[new_ids(0.0, 1)[0].hex()])


def pruned_alive(story: Story) -> None:
    story.enqueue("<a>")
    story.store.execute("DELETE FROM sitq_task")


def settled_twice(story: Story) -> None:
    story.tell()
    story.change("state = 3")


def stored_in_part(story: Story) -> None:
    story.enqueue("<a>")
    story.tries.write(op="try", tokens=["<a>", "<b>"], kinds=["plain", "plain"])


def from_nowhere(story: Story) -> None:
    story.enqueue("<a>")
    (story.folder / "e0.tries.jsonl").unlink()


def ran_from_nowhere(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(DEAD, "<other>")


def ran_twice(story: Story) -> None:
    story.tell()
    story.runs.write(op="start", attempt=1, pid=ALIVE, **story.about)


def ran_elsewhere(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(DEAD)
    story.runs.write(op="start", attempt=1, pid=ALIVE, **(story.about | {"fence": 2}))


def crash_as_attempt(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(DEAD)
    story.change("state = 0, worker = NULL, attempts = 1")


def retry_without_a_failure(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(DEAD)
    story.change("state = 0, worker = NULL, attempts = 1, epoch = 1")


def settled_without_an_end(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(ALIVE)
    story.settle()


def same_fence(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(DEAD)
    story.crash()
    story.change("state = 1, worker = 2")


def without_a_lease(story: Story) -> None:
    story.enqueue("<a>")
    story.dismiss(DEAD)
    story.change("state = 1, worker = 1, fence = 1")


def beyond_its_limit(story: Story) -> None:
    story.enqueue("<a>")
    for _ in range(CRASH_LIMIT):
        story.begin(ALIVE)
        story.change("state = 0, worker = NULL, crashes = crashes + 1")


def to_run_though_cancelled(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(DEAD)
    story.change("cancel = 1")
    story.store.execute("PRAGMA ignore_check_constraints = ON")
    story.change("state = 0, worker = NULL")


def taken_from_the_living(story: Story) -> None:
    story.enqueue("<a>")
    story.begin(DEAD)
    recovery._take(story.store, DEAD, time.time(), CRASH_LIMIT)
    story.dismiss(DEAD)


def suspected_too_early(story: Story) -> None:
    story.store.execute(verbs.SQL["suspect"], (0.5, "boot", DEAD))
    story.dismiss(DEAD)


def result_missing(story: Story) -> None:
    story.tell()
    story.store.execute("DROP TRIGGER journal_changed")
    story.change("value = NULL")


def result_missing_when_pruned(story: Story) -> None:
    result_missing(story)
    story.store.execute("DELETE FROM sitq_task")


def body_without_a_task(story: Story) -> None:
    story.tell()
    story.store.execute("INSERT INTO sitq_big VALUES (99, 1, x'')")


def behind_its_back(story: Story) -> None:
    story.tell()
    story.store.execute("DROP TRIGGER journal_changed")
    story.change("fence = 7")


BROKEN: dict[Callable[[Story], None], tuple[str, str]] = {
    # How a promise is broken: what counts it, and what is said of it.
    gone: ("lost", "gone from the store"),
    never_stored: ("lost", "acknowledged, but never stored"),
    pruned_alive: ("", "deleted before its end"),
    settled_twice: ("settled_twice", "no such move"),
    stored_in_part: ("", "stored in part"),
    from_nowhere: ("unexpected", "more often than it was enqueued"),
    ran_from_nowhere: ("unexpected", "ran, but nobody enqueued it"),
    ran_twice: ("unexpected", "ran twice under one fence"),
    ran_elsewhere: ("unexpected", "in a process that had not reserved it"),
    crash_as_attempt: ("", "no such move"),
    retry_without_a_failure: ("", "the run was killed, its reservation ended otherwise"),
    settled_without_an_end: ("", "the run was killed, its reservation ended otherwise"),
    same_fence: ("", "no such move"),
    without_a_lease: ("", "by a worker that has no lease"),
    beyond_its_limit: ("", "limit of crashes"),
    to_run_though_cancelled: ("", "to be cancelled, but to run again"),
    taken_from_the_living: ("", "not suspected"),
    suspected_too_early: ("", "suspected too early"),
    result_missing: ("", "ends without a result"),
    result_missing_when_pruned: ("", "ended without its result"),
    body_without_a_task: ("", "bodies without a task"),
    behind_its_back: ("", "not as its history says"),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_promise_is_seen(broken: Callable[[Story], None], story: Story) -> None:
    broken(story)
    verdict = story.verdict()
    figure, text = BROKEN[broken]
    assert any(text in violation for violation in verdict.violations), verdict.violations
    counted = {"lost": verdict.lost, "settled_twice": verdict.settled_twice}
    counted["unexpected"] = verdict.unexpected
    assert counted == {name: int(name == figure) for name in counted}


def test_what_is_left_behind_is_seen(story: Story) -> None:
    story.enqueue("<a>")
    violations = story.verdict().violations
    assert any("live tasks" in violation for violation in violations)
    assert any("workers" in violation for violation in violations)
