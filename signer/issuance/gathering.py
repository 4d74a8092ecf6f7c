"""Collects what waits together into groups, so that one transaction serves them all.

Owns the pending list; only the event-loop thread touches it. Knows items and futures; not requests, keys or the store.
Every future is resolved exactly once, with a result or an exception. There is no timer: a group is what came in one
pass of the loop, or while the groups before it were under way, so that one request alone waits for nobody and groups
grow by themselves under load. A caller that leaves does not take its group with it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from core.errors import Busy, QianyanError, Unavailable

T = TypeVar("T")
R = TypeVar("R")

#: Bounds for groups of issuance: how many share a transaction, how many wait, and for how long.
GROUP_MAX: Final = 32
PENDING_MAX: Final = 1_024
PATIENCE_S: Final = 15.0
_RETRY_AFTER_S: Final = 2


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    item: T
    future: asyncio.Future[R]
    until: float


class Gatherer(Generic[T, R]):
    """See the module. `work` gives a result or an exception for each item of a group, in order.

    parallel: how many groups may be under way at once. An exception that `work` raises is that of the whole group.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R | BaseException]]],
        *,
        parallel: int,
        group_max: int = GROUP_MAX,
        pending_max: int = PENDING_MAX,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._work = work
        self._parallel = parallel
        self._group_max = group_max
        self._pending_max = pending_max
        self._patience_s = patience_s
        self._pending: deque[_Waiting[T, R]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def submit(self, item: T) -> R:
        """What `work` gives for the item. Raises Busy (code "issuance_queue") where too much waits, or for too long."""
        if len(self._pending) >= self._pending_max:
            raise _full()
        loop = asyncio.get_running_loop()
        waiting: _Waiting[T, R] = _Waiting(item, loop.create_future(), loop.time() + self._patience_s)
        self._pending.append(waiting)
        self._schedule()
        return await waiting.future

    def _schedule(self) -> None:
        if not self._scheduled and self._pending and len(self._running) < self._parallel:
            self._scheduled = True
            # The groups' tasks belong to no request: they get no request's context.
            asyncio.get_running_loop().call_soon(self._start, context=contextvars.Context())

    def _start(self) -> None:
        self._scheduled = False
        now = asyncio.get_running_loop().time()
        group: list[_Waiting[T, R]] = []
        while self._pending and len(group) < self._group_max:
            waiting = self._pending.popleft()
            if waiting.future.done():
                continue  # its caller has left
            if now > waiting.until:
                waiting.future.set_exception(_full())
                continue
            group.append(waiting)
        if group:
            task = asyncio.get_running_loop().create_task(self._run(group))
            self._running.add(task)
            task.add_done_callback(self._ended)
        self._schedule()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._schedule()

    async def _run(self, group: Sequence[_Waiting[T, R]]) -> None:
        results: Sequence[R | BaseException]
        try:
            results = await self._work([waiting.item for waiting in group])
        except asyncio.CancelledError:
            results = [Unavailable("the service is stopping", code="stopping", retry_after_s=1)] * len(group)
        except Exception as error:
            results = [error if isinstance(error, QianyanError) else _copied(error) for _ in group]
        for waiting, result in zip(group, results, strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, BaseException):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)


def _full() -> Busy:
    return Busy("too many requests for certificates are waiting", code="issuance_queue", retry_after_s=_RETRY_AFTER_S)


def _copied(error: Exception) -> RuntimeError:
    """Several waiters raise one failure: each an exception of its own, with the first as its cause."""
    copy = RuntimeError("the group of requests failed")
    copy.__cause__ = error
    return copy
