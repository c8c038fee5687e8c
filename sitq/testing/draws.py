"""What `QueueMachine` draws: calls to store, ends of runs, filters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import strategies as st

from sitq.backends.base import Filter
from sitq.clock import to_microsecond
from sitq.model import NewTask, Outcome, OutcomeKind, State
from sitq.retry import Retry

__all__ = [
    "NAMES",
    "QUEUES",
    "Draft",
    "Pick",
    "Tale",
    "batches",
    "drafts",
    "filters",
    "numbers",
    "picks",
    "queues",
    "tales",
]

QUEUES = ("default", "mail")
NAMES = ("tests.work", "tests.other")
KEYS = ("a", "b")
BODIES: Mapping[str, bytes] = {"empty": b"", "small": b"small", "big": bytes(range(256)) * 20}
"""By names, which read better in a failing example. The big one is not kept in SQLite's row."""
_ERRORS = (OutcomeKind.FAILED, OutcomeKind.TIMED_OUT)

numbers: st.SearchStrategy[int] = st.integers(0, 1_000)
queues: st.SearchStrategy[tuple[str, ...] | None] = st.sampled_from(
    (None, None, *((queue,) for queue in QUEUES), QUEUES, ("nobody",))
)
filters: st.SearchStrategy[Filter] = st.builds(
    Filter,
    st.none() | st.sampled_from(State),
    st.none() | st.sampled_from((*QUEUES, "nobody")),
    st.none() | st.sampled_from((*NAMES, "tests.nobody")),
    st.none() | st.sampled_from(KEYS),
)


@dataclass(frozen=True)
class Draft:
    """A call that is to be stored. Times are in seconds from now."""

    name: str
    queue: str
    priority: int
    delay: float
    key: str | None
    patience: float | None
    timeout: float | None
    has_retry: bool
    body: str

    def task(self, id: bytes, now: float) -> NewTask:
        return NewTask(
            id=id,
            name=self.name,
            queue=self.queue,
            priority=self.priority,
            run_at=to_microsecond(now + self.delay),
            key=self.key,
            timeout=self.timeout,
            deadline=None if self.patience is None else to_microsecond(now + self.patience),
            retry=Retry(attempts=7).dump() if self.has_retry else None,
            arguments=BODIES[self.body],
            enqueued=now,
        )


drafts: st.SearchStrategy[Draft] = st.builds(
    Draft,
    name=st.sampled_from(NAMES),
    queue=st.sampled_from(QUEUES),
    priority=st.sampled_from((0, 0, 1, -1, 100, -100)),
    delay=st.sampled_from((0.0, 0.0, 0.0, 3.0, -1.0)),
    key=st.none() | st.sampled_from(KEYS),
    patience=st.sampled_from((None, None, 5.0, 50.0)),
    timeout=st.none() | st.just(2.5),
    has_retry=st.booleans(),
    body=st.sampled_from(tuple(BODIES)),
)
batches: st.SearchStrategy[list[Draft]] = st.lists(drafts, min_size=1, max_size=4)


@dataclass(frozen=True)
class Pick:
    """A run that is to be settled, and how it ended."""

    which: int
    stray: bool
    """Any run that ever was: one that was settled or taken, or that another worker holds."""
    kind: OutcomeKind
    body: str
    flag: bool
    """Of a failure: it is final. Of a release: the worker did not know the function."""
    saw_cancel: bool

    def outcome(self) -> Outcome:
        body = BODIES[self.body]
        return Outcome(
            self.kind,
            value=body if self.kind is OutcomeKind.SUCCEEDED else None,
            error=body if self.kind in _ERRORS else None,
            final=self.flag and self.kind in _ERRORS,
            unknown=self.flag and self.kind is OutcomeKind.RELEASED,
        )


@dataclass(frozen=True)
class Tale:
    """What a run tells of its progress."""

    which: int
    stray: bool
    """As of a `Pick`."""
    done: float
    total: float | None
    note: str


tales: st.SearchStrategy[Tale] = st.builds(
    Tale,
    which=numbers,
    stray=st.sampled_from((False, False, True)),
    done=st.sampled_from((0.0, 0.5, 1e308)),
    total=st.sampled_from((None, 1e-300, 7.0)),
    note=st.sampled_from(("", 'quotes " \\ {} NULL', "\u20ac" * 500)),
)
picks: st.SearchStrategy[Pick] = st.builds(
    Pick,
    which=numbers,
    stray=st.sampled_from((False, False, False, True)),
    kind=st.sampled_from([kind for kind in OutcomeKind if kind is not OutcomeKind.LOST]),
    body=st.sampled_from(tuple(BODIES)),
    flag=st.booleans(),
    saw_cancel=st.booleans(),
)
