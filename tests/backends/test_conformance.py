"""What every backend must do, verb by verb, on asyncio and on trio."""

from __future__ import annotations

import random
from uuid import uuid4

import anyio
import pytest

from sitq import SQLiteBackend, lifecycle
from sitq.backends import pruning
from sitq.backends.base import Filter, Sweep, Wanted
from sitq.errors import KeyTaken
from sitq.model import Outcome, OutcomeKind, State
from sitq.retry import Retry

pytestmark = pytest.mark.anyio

RETRY = Retry(attempts=2, base=1.0, cap=4.0)
BIG = bytes(range(256)) * 20


async def take(backend, worker, limit=10, queues=None, skip=(), suspect=True):
    got = []
    await backend.reserve(worker, Wanted(limit, queues, skip, suspect), got.extend)
    return got


def decide(backend, task, kind=OutcomeKind.SUCCEEDED, retry=RETRY, **options):
    now = backend.clock.time()
    outcome = Outcome(kind, **options)
    return lifecycle.settle(task, retry, outcome, now, random.Random(0))


async def sweep(backend, worker):
    return await backend.recover(worker, Sweep(2, 60.0))


async def test_it_tells_the_time(backend, clock):
    assert await backend.now() == clock.time()
    clock.travel(0.1)
    assert await backend.now() == clock.time()


@pytest.mark.parametrize("at", [0.0, 1e-6, 1_699_999_999.123457, 4_294_967_296.000003, 6.3e9])
async def test_times_come_back_as_they_went_in(backend, new, record, clock, at):
    task = new(run_at=at, enqueued=at, deadline=6_310_000_000.000007)
    await backend.insert([task])
    worker = await backend.hire(record)
    clock.jump(max(0.0, at - clock.time()))
    [got] = await take(backend, worker)
    assert (got.run_at, got.enqueued, got.deadline) == (at, at, task.deadline)
    settled = decide(backend, got, OutcomeKind.RELEASED, unknown=True)
    await backend.settle(worker, [settled])
    row = await backend.get(task.id)
    assert (row.run_at, row.enqueued) == (settled.run_at, at)
    assert (row.started, row.deadline) == (clock.time(), task.deadline)
    clock.jump(settled.run_at - clock.time())
    [again] = await take(backend, worker)
    assert again.unknown_since == settled.unknown_since


async def test_insert_is_all_or_none(backend, new):
    task = new()
    with pytest.raises(Exception, match=r"(?i)unique"):
        await backend.insert([new(), task, task])
    assert (await backend.counts())[State.PENDING] == 0


async def test_insert_many(backend, new):
    tasks = [new() for _ in range(20_000)]
    assert await backend.insert(tasks) == [task.id for task in tasks]
    assert (await backend.counts())[State.PENDING] == 20_000


async def test_nothing_to_insert(backend):
    assert await backend.insert([]) == []


async def test_key_belongs_to_the_first(backend, new, record):
    first, second = new(key="k"), new(key="k")
    assert await backend.insert([first, second]) == [first.id, first.id]
    third = new(key="k")
    assert await backend.insert([third]) == [first.id]
    await backend.cancel(first.id)
    assert await backend.insert([third]) == [third.id]


async def test_insert_keeps_the_order_of_tasks_with_and_without_key(backend, new):
    tasks = [new(key="a"), new(), new(key="b"), new()]
    await backend.insert(tasks)
    rows = await backend.find(Filter(), after=0, limit=10)
    assert [row.id for row in rows] == [task.id for task in tasks]


async def test_a_worker_without_a_lease_reserves_nothing(backend, new, record):
    await backend.insert([new()])
    gone, other = await backend.hire(record), await backend.hire(record)
    await backend.dismiss(gone)
    assert await take(backend, gone) == []
    assert [task.fence for task in await take(backend, other)] == [1]


async def test_a_worker_that_holds_something_keeps_its_lease(backend, new, record):
    await backend.insert([new()])
    worker, other = await backend.hire(record), await backend.hire(record)
    [task] = await take(backend, worker)
    await backend.dismiss(worker)
    assert (await backend.recover(other, Sweep(3, 60.0))).crashed == []
    await backend.settle(worker, [decide(backend, task)])
    await backend.dismiss(worker)
    assert [row.id for row in await backend.workers()] == [other]


async def test_reserve_goes_by_priority_then_due_time_then_order(backend, new, record, clock):
    now = clock.time()
    a, b, c, d = new(), new(priority=5), new(run_at=now - 1), new()
    await backend.insert([a, b, c, d])
    got = await take(backend, await backend.hire(record))
    assert [task.id for task in got] == [b.id, c.id, a.id, d.id]
    assert {task.fence for task in got} == {1}


async def test_reserve_takes_from_its_queues_and_skips_names(backend, new, record):
    mail, other = new(queue="mail"), new(queue="other", name="tests.unknown")
    await backend.insert([mail, other])
    worker = await backend.hire(record)
    assert [t.id for t in await take(backend, worker, queues=("mail",))] == [mail.id]
    assert await take(backend, worker, skip=("tests.unknown",)) == []
    assert [t.id for t in await take(backend, worker)] == [other.id]


async def test_delayed_is_never_early_and_its_time_is_told(backend, new, record, clock):
    due = clock.time() + 10
    await backend.insert([new(run_at=due)])
    worker = await backend.hire(record)
    got = []
    assert await backend.reserve(worker, Wanted(1, None), got.extend) == due
    assert got == []
    clock.travel(10)
    assert len(await take(backend, worker)) == 1


async def test_suspects_come_one_at_a_time(backend, new, record, clock):
    dead, living = await backend.hire(record), await backend.hire(record)
    await backend.insert([new() for _ in range(3)])
    assert len(await take(backend, dead)) == 3
    clock.travel(15)
    assert (await sweep(backend, living)).crashed == []
    clock.travel(6)
    assert len((await sweep(backend, living)).crashed) == 3
    assert len(await take(backend, living)) == 1
    assert await take(backend, living, suspect=False) == []


async def test_a_late_beat_clears_the_suspicion(backend, new, record, clock):
    late, other = await backend.hire(record), await backend.hire(record)
    await backend.insert([new()])
    await take(backend, late)
    clock.travel(15)
    await sweep(backend, other)
    assert (await sweep(backend, late)).lease_held
    clock.travel(6)
    assert (await sweep(backend, other)).crashed == []


async def test_a_lease_that_was_taken_does_not_come_back(backend, new, record, clock):
    dead, other = await backend.hire(record), await backend.hire(record)
    for _ in range(2):
        clock.travel(15)
        await sweep(backend, other)
    assert not (await sweep(backend, dead)).lease_held
    heart = backend.heart(dead)
    if heart is not None:
        assert not heart.beat(0.0)
        heart.close()


async def test_settle_is_guarded(backend, new, record):
    worker, other = await backend.hire(record), await backend.hire(record)
    task = new()
    await backend.insert([task])
    (held,) = await take(backend, worker)
    change = decide(backend, held)
    assert await backend.settle(worker, [change._replace(fence=0)]) == set()
    assert await backend.settle(other, [change]) == set()
    await backend.cancel(task.id)
    assert await backend.cancelled(worker) == {held.seq}
    assert await backend.settle(worker, [decide(backend, held, OutcomeKind.RELEASED)]) == set()
    assert await backend.settle(worker, [change]) == {held.seq}
    assert await backend.settle(worker, [change]) == set()
    assert (await backend.get(task.id)).state is State.SUCCEEDED


async def test_a_stale_change_beside_a_good_one_of_the_same_task(backend, new, record):
    worker = await backend.hire(record)
    task = new()
    await backend.insert([task])
    (first,) = await take(backend, worker)
    await backend.settle(worker, [decide(backend, first, OutcomeKind.RELEASED)])
    (second,) = await take(backend, worker)
    stale = decide(backend, first, OutcomeKind.FAILED, Retry(attempts=1), error=BIG)
    good = decide(backend, second, value=BIG[::-1])
    assert await backend.settle(worker, [good, stale]) == {second.seq}
    row = await backend.get(task.id)
    assert (row.state, row.value, row.error) == (State.SUCCEEDED, BIG[::-1], None)


async def test_big_bodies(backend, new, record):
    worker = await backend.hire(record)
    task = new(arguments=BIG)
    await backend.insert([task])
    (held,) = await take(backend, worker)
    assert held.arguments == BIG
    failed = decide(backend, held, OutcomeKind.FAILED, Retry(attempts=1), error=BIG)
    await backend.settle(worker, [failed])
    assert (await backend.get(task.id)).error == BIG
    assert await backend.revive(task.id) is State.FAILED
    assert (await backend.get(task.id)).error is None
    (held,) = await take(backend, worker)
    assert held.fence > failed.fence
    assert held.arguments == BIG
    await backend.settle(worker, [decide(backend, held, value=BIG)])
    row = await backend.get(task.id)
    assert (row.value, row.error) == (BIG, None)


async def test_cancel(backend, new, record):
    pending = new()
    await backend.insert([pending])
    assert await backend.cancel(uuid4().bytes) is None
    assert await backend.cancel(pending.id) is State.PENDING
    assert await take(backend, await backend.hire(record)) == []
    assert await backend.cancel(pending.id) is State.CANCELLED


async def test_revive(backend, new):
    first, second = new(key="k"), new(key="k")
    await backend.insert([first])
    assert await backend.revive(first.id) is State.PENDING
    await backend.cancel(first.id)
    await backend.insert([second])
    with pytest.raises(KeyTaken):
        await backend.revive(first.id)
    await backend.cancel(second.id)
    assert await backend.revive(first.id) is State.CANCELLED
    assert (await backend.get(first.id)).state is State.PENDING
    assert await backend.revive(uuid4().bytes) is None


async def test_find_pages_and_filters(backend, new):
    tasks = [new(queue="ab"[n % 2], key=str(n)) for n in range(5)]
    await backend.insert(tasks)
    page = await backend.find(Filter(), after=0, limit=2)
    rest = await backend.find(Filter(), after=page[-1].seq, limit=10)
    assert [row.id for row in page + rest] == [task.id for task in tasks]
    found = await backend.find(Filter(State.PENDING, "b", "tests.work", "1"), after=0, limit=9)
    assert [row.id for row in found] == [tasks[1].id]
    assert await backend.find(Filter(State.FAILED), after=0, limit=9) == []
    assert (await backend.counts("a"))[State.PENDING] == 3


async def test_running_tasks_are_found_in_the_order_of_enqueueing(backend, new, record):
    tasks = [new(priority=n, queue="ab"[n % 2]) for n in range(5)]
    await backend.insert([*tasks, new(priority=-1)])
    worker = await backend.hire(record)
    held = await take(backend, worker, limit=5)
    assert [task.id for task in held] == [task.id for task in reversed(tasks)]
    page = await backend.find(Filter(State.RUNNING), after=0, limit=2)
    rest = await backend.find(Filter(State.RUNNING), after=page[-1].seq, limit=10)
    assert [row.id for row in page + rest] == [task.id for task in tasks]
    found = await backend.find(Filter(State.RUNNING, "b"), after=page[-1].seq, limit=10)
    assert [row.id for row in found] == [tasks[3].id]


async def test_prune_is_bounded_and_takes_no_live_task(backend, new, clock):
    tasks = [new() for _ in range(4)]
    await backend.insert(tasks)
    for task in tasks[:3]:
        await backend.cancel(task.id)

    async def prune(limit):
        pruned = await backend.prune(Filter(), ended_before=clock.time(), limit=limit)
        return pruned.deleted

    assert [await prune(2), await prune(2), await prune(2)] == [2, 1, 0]
    assert [row.id for row in await backend.find(Filter(), after=0, limit=9)] == [tasks[3].id]


async def test_prune_goes_on_where_it_stopped(backend, new, clock, monkeypatch):
    monkeypatch.setattr(pruning, "MOST_ENDS", 3)
    tasks = [new(queue="ab"[n % 5 == 4]) for n in range(20)]
    await backend.insert(tasks)
    for task in tasks:
        await backend.cancel(task.id)
    looks, deleted, last = 0, 0, 0
    while last is not None:
        number, last = await backend.prune(
            Filter(queue="b"), ended_before=clock.time(), limit=2, after=last
        )
        looks, deleted = looks + 1, deleted + number
    assert (deleted, looks) == (4, 7)  # each of the 20 was looked at once
    assert {row.queue for row in await backend.find(Filter(), after=0, limit=20)} == {"a"}


@pytest.mark.parametrize("ends_anew", [False, True])
async def test_a_revived_task_is_not_pruned(backend, new, clock, monkeypatch, ends_anew):
    task = new()
    await backend.insert([task])
    await backend.cancel(task.id)
    look = backend._read

    async def revived_after(*args):
        found = await look(*args)
        await backend.revive(task.id)
        if ends_anew:
            await backend.cancel(task.id)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_read", revived_after)
        pruned = await backend.prune(Filter(), ended_before=clock.time(), limit=9)
    assert pruned.deleted == 0
    assert await backend.get(task.id) is not None


async def test_ended_waits(backend, new, record):
    assert await backend.ended(uuid4().bytes) is None
    task = new()
    worker = await backend.hire(record)
    await backend.insert([task])
    rows = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:

            async def wait():
                rows.append(await backend.ended(task.id))

            tg.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            (held,) = await take(backend, worker)
            await backend.settle(worker, [decide(backend, held, value=b"v")])
    assert rows[0].value == b"v"


async def test_changed_loses_no_wake(backend, new):
    with anyio.fail_after(5):
        token = backend.token()
        await backend.insert([new()])
        await backend.changed(token)


@pytest.mark.parametrize("verb", ["changed", "ended"])
async def test_woken_by_another_backend_on_the_same_file(path, clock, new, verb, anyio_backend):
    task = new()
    async with SQLiteBackend(path, clock=clock) as one, SQLiteBackend(path, clock=clock) as two:
        await one.insert([task])
        token = one.token()
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tg:
                tg.start_soon(
                    *((one.changed, token) if verb == "changed" else (one.ended, task.id))
                )
                await anyio.wait_all_tasks_blocked()
                await two.cancel(task.id)


async def test_ended_returns_when_the_task_is_pruned(backend, new, clock):
    task = new()
    await backend.insert([task])
    rows = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:

            async def wait():
                rows.append(await backend.ended(task.id))

            tg.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await backend.cancel(task.id)
            await backend.prune(Filter(), ended_before=clock.time(), limit=9)
    assert rows[0] is None or rows[0].state is State.CANCELLED
