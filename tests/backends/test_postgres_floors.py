"""Where looks are slow a reserve begins where the last one came to, and misses nothing for long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import anyio
import pytest

from sitq import PostgresBackend
from sitq.backends.base import Wanted
from sitq.backends.postgres import floors
from sitq.lifecycle import settle
from sitq.model import NewTask, Outcome, OutcomeKind, Reservation, WorkerRecord
from sitq.retry import NO_RETRY

from ..postgres import backend_at, fresh_schema, tables

pytestmark = pytest.mark.anyio
New = Callable[..., NewTask]


@pytest.fixture
async def backend(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresBackend]:
    monkeypatch.setattr(floors, "SLOW", 0.0)  # every look is
    monkeypatch.setattr(floors, "SLOW_EACH", 0.0)
    monkeypatch.setattr(floors, "FRESH", 60.0)
    with fresh_schema() as schema:
        async with backend_at(schema) as made:
            yield made


def task(now: float, **options: object) -> NewTask:
    plain = NewTask(uuid4().bytes, "work", "default", 0, now, None, None, None, None, b"", now)
    return plain._replace(**options)  # type: ignore[arg-type]


async def take(backend: PostgresBackend, worker: int, limit: int = 2) -> list[Reservation]:
    got: list[Reservation] = []
    await backend.reserve(worker, Wanted(limit, None), got.extend)
    return got


async def test_all_are_taken_once_and_in_their_order(
    backend: PostgresBackend, record: WorkerRecord
) -> None:
    now = await backend.now()
    tasks = [task(now, queue="ab"[n % 2]) for n in range(21)]
    await backend.insert(tasks)
    worker = await backend.hire(record)
    got: list[bytes] = []
    while len(got) < len(tasks):
        got += [one.id for one in await take(backend, worker)]
    assert got == [one.id for one in tasks]
    assert await take(backend, worker) == []


async def test_what_comes_meanwhile_is_not_passed_over(
    backend: PostgresBackend, record: WorkerRecord
) -> None:
    now = await backend.now()
    await backend.insert([task(now) for _ in range(9)])
    worker = await backend.hire(record)
    first, _ = await take(backend, worker)
    urgent = task(now, priority=9)
    await backend.insert([urgent])
    assert urgent.id in [one.id for one in await take(backend, worker)]
    change = settle(first, NO_RETRY, Outcome(OutcomeKind.RELEASED), now, None)  # type: ignore
    assert change is not None
    await backend.settle(worker, [change])
    assert (await take(backend, worker))[0].id == first.id


async def test_what_comes_back_unheard_is_found_at_the_end(
    backend: PostgresBackend, record: WorkerRecord
) -> None:
    now = await backend.now()
    await backend.insert([task(now) for _ in range(7)])
    worker = await backend.hire(record)
    first, _ = await take(backend, worker)
    # As another process does whose notice is late.
    query = "UPDATE sitq_task SET state = 0, worker = NULL WHERE seq = ?"
    await tables(backend, query, first.seq)
    rest = [one for _ in range(3) for one in await take(backend, worker)]
    assert sorted(one.seq for one in rest)[0] == first.seq
    assert len(rest) == 6


async def test_and_within_a_second_if_there_is_no_end(
    backend: PostgresBackend, record: WorkerRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floors, "FRESH", 0.05)
    now = await backend.now()
    await backend.insert([task(now) for _ in range(9)])
    worker = await backend.hire(record)
    first, _ = await take(backend, worker)
    await tables(backend, "UPDATE sitq_task SET state = 0, worker = NULL WHERE seq = ?", first.seq)
    await anyio.sleep(0.06)
    assert (await take(backend, worker))[0].id == first.id
