"""Worker: reserves tasks and runs each in its own cancel scope, on asyncio or trio."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Coroutine, Iterable
from contextlib import nullcontext
from types import TracebackType
from typing import Any, cast

import anyio
from anyio import TASK_STATUS_IGNORED, CancelScope, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup, TaskStatus

from sitq import context
from sitq.backends.base import Backend
from sitq.backends.loop import Loop
from sitq.context import running_task
from sitq.errors import StoreUnavailable, UsageError
from sitq.options import (
    check_backend,
    check_queues,
    check_seconds,
    check_serializer,
    check_whole,
)
from sitq.registry import Registry, default_registry
from sitq.serialization import Serializer, default_serializer
from sitq.worker.courtesy import give_way
from sitq.worker.lifespan import Lifespan, LifespanFunction, check_lifespan
from sitq.worker.processes import Processes
from sitq.worker.run import Cause
from sitq.worker.serve import serve
from sitq.worker.shift import Options, Shift, Stop, log_event
from sitq.worker.signals import Signals, obey, receive

__all__ = ["Worker"]


class Worker:
    """Runs tasks: up to ``max_concurrency`` at a time, in one task group.

    It runs in one of three ways: ``async with Worker(...)`` beside the block, ``worker.run()``
    until it is stopped, or in the background between ``worker.start()`` and ``worker.stop()``. One
    worker runs once at a time.

    Args:
        backend: where the tasks are.
        queues: names of the queues to serve; None serves all.
        max_concurrency: how many tasks run at a time.
        poll_interval: seconds after which the store is looked at although nothing announced work.
        serializer: unpacks arguments and packs results; the same as the queue's.
        registry: the task functions that this worker knows. Default: those of ``@task``.
        grace: seconds that running tasks get to finish when the worker stops; then they are
            cancelled and go back to the queue.
        lease: seconds after which the tasks of a worker that died go back; at least 0.1.
        crash_limit: a task under which so many workers died fails.
        retention: seconds for which ended tasks are kept; None keeps them until they are purged.
        unknown_after: seconds after which a task fails whose function no worker knows.
        lifespan: a function without arguments that returns an async context manager: entered
            before the worker reserves anything, left after its last task was settled or given
            back. Its value is ``current_task().resources``.

    Raises:
        InvalidOption: an option is outside what it takes.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        queues: Iterable[str] | None = None,
        max_concurrency: int = 10,
        poll_interval: float = 1.0,
        serializer: Serializer | None = None,
        registry: Registry | None = None,
        grace: float = 20.0,
        lease: float = 15.0,
        crash_limit: int = 3,
        retention: float | None = 7 * 86_400.0,
        unknown_after: float = 300.0,
        lifespan: LifespanFunction | None = None,
    ) -> None:
        self._backend = check_backend(backend)
        self._serializer = check_serializer(
            default_serializer if serializer is None else serializer
        )
        self._registry = default_registry if registry is None else registry
        self._options = Options(
            queues=check_queues(queues),
            max_concurrency=check_whole("max_concurrency", max_concurrency, 1, 100_000),
            poll_interval=check_seconds("poll_interval", poll_interval, 0.001),
            grace=check_seconds("grace", grace, 0.0),
            lease=check_seconds("lease", lease, 0.1),
            crash_limit=check_whole("crash_limit", crash_limit, 1, 1_000),
            retention=None if retention is None else check_seconds("retention", retention, 0.0),
            unknown_after=check_seconds("unknown_after", unknown_after, 0.0),
        )
        self._lifespan = check_lifespan(lifespan)
        self._running = False
        self._intents: set[object] = set()
        self._stop = Stop()
        self._shift: Shift | None = None
        self._ready: anyio.Event | None = None
        self._finished: anyio.Event | None = None
        self._error: BaseException | None = None
        self._host: TaskGroup | None = None
        self._root: object = None

    @property
    def registry(self) -> Registry:
        """The task functions that this worker knows."""
        return self._registry

    @property
    def grace(self) -> float:
        """Seconds that running tasks get to finish when the worker stops."""
        return self._options.grace

    async def run(
        self,
        *,
        handle_signals: bool = False,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Run until `stop` is called, or the caller is cancelled.

        Args:
            handle_signals: stop gracefully at SIGTERM, SIGINT (Ctrl-C) or SIGHUP. A second signal
                cancels what runs and gives it back at once, and the process exits with
                128 + signal; tasks that cannot be cancelled are left to the lease then.
            task_status: told once the worker runs, for ``await task_group.start(worker.run)``.

        Raises:
            UsageError: the worker runs already, or signals cannot be received in this thread.
            StoreError: the store is unusable.
            SystemExit: after a second signal.
        """
        with receive() if handle_signals else nullcontext() as signals:
            self._begin()
            await self._run_begun(task_status, signals)
        if self._stop.signal is not None:
            raise SystemExit(128 + self._stop.signal)

    async def _run_begun(
        self, task_status: TaskStatus[None], signals: Signals | None = None
    ) -> None:
        assert self._ready is not None
        try:
            async with create_task_group() as host:
                loop = Loop()
                if signals is not None:
                    host.start_soon(loop.protected(obey), signals, self._stop, self._options.grace)
                host.start_soon(loop.protected(self._watch_host))
                courtesy = CancelScope(shield=True)
                host.start_soon(loop.protected(self._give_way), courtesy)
                host.start_soon(loop.protected(self._serve), host, courtesy)
                await self._ready.wait()
                task_status.started()
        except BaseExceptionGroup as errors:
            raise _bare(errors) from None  # KeyboardInterrupt, which trio raises in this task
        finally:
            self._end()
        self._raise_error()

    def start(self) -> Coroutine[Any, Any, None]:
        """Run in the background; done once the worker runs. If it is cancelled, nothing runs.

        The intent counts from the call, not from the await: a `stop` that comes first cancels it.

        Raises:
            UsageError: the worker runs already.
            StoreError: the store is unusable.
        """
        intent = object()
        self._intents.add(intent)
        return self._start(intent)

    async def stop(self) -> None:
        """Stop gracefully: no new tasks, ``grace`` seconds for those that run, the rest goes back.

        Returns when the worker has stopped; at once if it does not run.

        Raises:
            Exception: what broke the worker, if it broke in the background.
        """
        self._intents.clear()
        if self._running:
            self._stop.request(Cause.SHUTDOWN, self._options.grace)
            assert self._finished is not None
            await self._finished.wait()
        if self._host is None:
            self._raise_error()

    async def __aenter__(self) -> Worker:
        self._begin()
        assert self._ready is not None
        self._host = host = create_task_group()
        await host.__aenter__()
        host.start_soon(self._run_hosted)
        try:
            await self._ready.wait()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        host = self._host
        assert host is not None
        cancelled = get_cancelled_exc_class()
        raised = _without(exc, cancelled)
        self._stop.request(Cause.SHUTDOWN, self._options.grace)
        try:
            # The host waits for the worker whatever happens; no other await may come before.
            if exc is not None and raised is None:
                swallowed = await host.__aexit__(exc_type, exc, traceback)
            else:
                await host.__aexit__(None, None, None)
                swallowed = False
        except cancelled:
            if raised is None:
                raise
            swallowed = False  # the body's own exception leads out of the block
        finally:
            self._host = None
        if raised is None:
            self._raise_error()
        elif raised is not exc:  # less what the worker's end did to the body
            raise raised from None
        return swallowed

    def _begin(self) -> None:
        if context.is_process_of_worker:
            raise UsageError(
                "this is a process of a worker, and no worker can run in it; if a script is to "
                'start one, let it do so below: if __name__ == "__main__":'
            )
        if self._running:
            raise UsageError("the worker runs already; make another one, or stop it first")
        self._running = True
        self._error = None
        self._stop = Stop()
        self._ready = anyio.Event()
        self._finished = anyio.Event()

    def _end(self) -> None:
        self._running = False
        self._shift = None
        assert self._finished is not None
        self._finished.set()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _watch_host(self) -> None:
        """Turn cancellation from the host into a stop without grace; the rest is shielded."""
        try:
            await anyio.sleep_forever()
        finally:
            self._stop.request(Cause.HOST_CANCELLED, 0.0)

    async def _give_way(self, courtesy: CancelScope) -> None:
        """As long as `_serve` needs threads, also when the host is cancelled."""
        with courtesy:
            await give_way(self._options.lease, self._is_settling)

    def _is_settling(self) -> bool:
        return self._shift is not None and bool(self._shift.ended)

    async def _serve(self, host: TaskGroup, courtesy: CancelScope) -> None:
        try:
            with CancelScope(shield=True):
                lifespan = Lifespan(self._lifespan, host, self._stop, self._options.grace)
                async with self._backend, lifespan as resources, Processes() as processes:
                    await self._serve_shifts(resources, processes)
        except Exception as error:
            self._error = error
        finally:
            courtesy.cancel()
            host.cancel_scope.cancel()

    async def _serve_shifts(self, resources: Any, processes: Processes) -> None:
        """One shift, and another each time the lease is lost."""
        assert self._ready is not None
        while self._stop.cause is None:
            worker = await self._hire()
            if worker is None:
                continue
            self._shift = shift = Shift(
                self._backend,
                self._registry,
                self._serializer,
                self._options,
                worker,
                self._stop,
                Loop(),
                resources,
                processes,
            )
            shift.log(logging.INFO, "worker started")
            self._ready.set()
            await serve(shift)
            shift.log(logging.INFO, "worker stopped")
        self._ready.set()

    async def _hire(self) -> int | None:
        """Enter the store. None, after a pause, if a later shift cannot begin for now."""
        assert self._ready is not None
        try:
            return await self._backend.hire(self._options.record())
        except StoreUnavailable as error:
            if not self._ready.is_set():
                raise
            log_event(logging.WARNING, "cannot begin again for now", error=error)
        with self._stop.interruptible():
            await anyio.sleep(self._options.poll_interval)
        return None

    async def _run_hosted(self) -> None:
        try:
            await self._run_begun(TASK_STATUS_IGNORED)
        except Exception as error:
            self._broke(error)
            assert self._host is not None
            self._host.cancel_scope.cancel()

    async def _start(self, intent: object) -> None:
        if intent not in self._intents:
            return
        self._intents.discard(intent)
        self._begin()
        loop = Loop()
        variables = contextvars.copy_context()
        variables.run(running_task.set, None)
        self._root = loop.spawn(self._run_detached, "sitq worker", variables)
        assert self._ready is not None
        assert self._finished is not None
        try:
            await self._ready.wait()
        except BaseException:  # who was cancelled here does not know of a worker to stop
            self._stop.request(Cause.HOST_CANCELLED, 0.0)
            with CancelScope(shield=True):
                await self._finished.wait()
            raise
        if not self._running:
            self._raise_error()

    async def _run_detached(self) -> None:
        """The root of a worker in the background: it never raises, `stop` does."""
        try:
            await self._run_begun(TASK_STATUS_IGNORED)
        except Exception as error:
            self._broke(error)
        finally:
            assert self._ready is not None
            self._ready.set()

    def _broke(self, error: Exception) -> None:
        """Keep what broke the worker, and log it now: nobody may ever ask for it."""
        self._error = error
        log_event(logging.CRITICAL, "worker broke", error=f"{type(error).__name__}: {error}")


def _without(error: BaseException | None, cancelled: type[BaseException]) -> BaseException | None:
    """What there is in the exception of a block beside its cancellation."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(cancelled)[1] if group.subgroup(cancelled) else group
    return None if isinstance(error, cancelled) else error


def _bare(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The only exception in the group, or the group."""
    first, *others = errors.exceptions
    if others:
        return errors
    if isinstance(first, BaseExceptionGroup):
        return _bare(cast("BaseExceptionGroup[BaseException]", first))
    return first
