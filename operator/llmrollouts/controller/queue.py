"""The work queue: which deployment's round runs next, and when it runs again.

One round per key at a time, up to ``workers`` rounds at once, first come first served. A key that
is nudged while it waits is not queued twice; a key that is nudged *during its round* runs again as
soon as the round ends, because the round may have read the world before the change (R31). A failed
key backs off by itself; the others never notice (R26).

News does not wait behind routine: a hundred rollouts mean fifty rounds a second by the clock alone,
and a rollback that came in behind them, or behind the writes of a hundred other rollbacks, would
be late. So nudged keys are also served by ``helpers``, workers that come when no other is free and
go when there is no more news. Routine keeps the workers that it has: neither can starve the other.

It decides nothing about deployments and never reads the API. Called by the watch layer (nudge),
the reconciler (what a round returns) and the health page (ages).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Container, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Settled:
    """The round is complete; without any event the next one is due after ``wake_after`` seconds
    (None: only an event or the resync wakes it)."""

    wake_after: float | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Somebody wrote in between: read again, decide again, at once."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """The round failed. It runs again after ``first`` seconds, then twice that, up to ``longest``;
    never sooner than ``at_least`` (what the server asked for). A nudge brings it forward, but not
    before ``at_least`` and not within ``NUDGED_FLOOR`` seconds of the failure."""

    first: float = 0.5
    longest: float = 60.0
    at_least: float = 0.0


Outcome: TypeAlias = Settled | Again | BackOff

# A failing key whose pods produce events all the time must not become a busy loop.
NUDGED_FLOOR: Final = 0.25
# Lost writes in a row that are repeated without any delay, and the longest delay after that.
FREE_CONFLICTS: Final = 3
# Rounds of news at once, beyond the ordinary workers.
HELPERS: Final = 48
LONGEST_CONFLICT_DELAY: Final = 1.0


@dataclass(slots=True)
class _Timer:
    handle: asyncio.TimerHandle
    due: float


class WorkQueue(Generic[K]):
    """``reconcile`` runs one round for one key and says what comes next. It must not raise: an
    exception ends the queue's worker and with it the process, since nobody could tell what else
    is broken."""

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[Outcome]],
        workers: int = 16,
        helpers: int = HELPERS,
    ) -> None:
        self._reconcile = reconcile
        self._workers = workers
        self._helpers = helpers
        # Keys in the order in which they came, all of them and those with news. An entry whose key
        # has been served from the other one meanwhile is passed over.
        self._ready: deque[K] = deque()
        self._news: deque[K] = deque()
        self._ready_since: dict[K, float] = {}
        self._with_news: set[K] = set()
        self._idle = 0
        self._helping = 0
        self._group: asyncio.TaskGroup | None = None
        self._running_since: dict[K, float] = {}
        self._nudged_while_running: set[K] = set()
        self._timers: dict[K, _Timer] = {}
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._arrival = asyncio.Event()
        self._quiet = asyncio.Event()  # no round is running
        self._quiet.set()
        self._closed = False
        self._last_start: float | None = None

    # What may be asked for.

    def nudge(self, key: K) -> None:
        """Run a round for ``key`` now, or right after the one that is running."""
        if key in self._running_since:
            self._nudged_while_running.add(key)
        elif key in self._not_before:
            self._schedule(key, self._not_before[key])
        else:
            self._enqueue(key, news=True)

    def wake_after(self, key: K, seconds: float) -> None:
        """Run a round for ``key`` in ``seconds`` at the latest."""
        self._schedule(key, self._now() + max(0.0, seconds))

    def forget(self, key: K) -> None:
        """Drop timers and failures of a key that exists no more; a running round ends normally."""
        self._cancel_timer(key)
        self._failures.pop(key, None)
        self._not_before.pop(key, None)

    # What may be looked at.

    @property
    def depth(self) -> int:
        """Keys that wait for a worker now."""
        return len(self._ready_since)

    @property
    def running(self) -> int:
        return len(self._running_since)

    @property
    def backing_off(self) -> int:
        return len(self._failures)

    def oldest_waiting(self) -> float:
        """Seconds that the longest waiting key has waited for a worker; 0 with none."""
        return self._age(self._ready_since)

    def longest_running(self) -> float:
        """Seconds since the oldest running round began; 0 with none."""
        return self._age(self._running_since)

    def seconds_since_start(self) -> float | None:
        """Seconds since a round last began: with keys waiting, a large value means no movement."""
        return None if self._last_start is None else self._now() - self._last_start

    # Running.

    async def run(self) -> None:
        """Work until ``stop``; an error that escaped a round ends it, loudly."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for number in range(self._workers):
                group.create_task(self._work(), name=f"queue worker {number}")

    async def stop(self, grace: float) -> bool:
        """Start no further round; wait up to ``grace`` seconds for the running ones.

        True when none was left running. The caller cancels ``run`` afterwards.
        """
        self._closed = True
        for key in list(self._timers):
            self._cancel_timer(key)
        self._arrival.set()
        try:
            async with asyncio.timeout(grace):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def _work(self) -> None:
        try:
            while not self._closed:
                key = self._take(self._ready, self._ready_since)
                if key is not None:
                    await self._serve(key)
                    continue
                self._arrival.clear()
                self._idle += 1
                try:
                    await self._arrival.wait()
                finally:
                    self._idle -= 1
        finally:
            # Cancelled or broken: what comes from now on finds nobody to serve it.
            self._closed = True

    async def _help(self) -> None:
        try:
            while not self._closed and (key := self._take(self._news, self._with_news)) is not None:
                await self._serve(key)
        finally:
            self._helping -= 1

    def _take(self, lane: deque[K], waiting: Container[K]) -> K | None:
        """The next key of this lane that still waits; it waits no more."""
        while lane:
            key = lane.popleft()
            if key in waiting:
                del self._ready_since[key]
                self._with_news.discard(key)
                return key
        return None

    async def _serve(self, key: K) -> None:
        self._running_since[key] = self._last_start = self._now()
        self._quiet.clear()
        try:
            outcome = await self._reconcile(key)
        finally:
            del self._running_since[key]
            if not self._running_since:
                self._quiet.set()
        self._follow(key, outcome)

    def _follow(self, key: K, outcome: Outcome) -> None:
        nudged = key in self._nudged_while_running
        self._nudged_while_running.discard(key)
        if self._closed:
            return
        match outcome:
            case Settled(wake_after):
                self._failures.pop(key, None)
                self._not_before.pop(key, None)
                if nudged:
                    self._enqueue(key, news=True)
                elif wake_after is not None:
                    self.wake_after(key, wake_after)
            case Again():
                lost = self._count_failure(key)
                if lost <= FREE_CONFLICTS:
                    self._enqueue(key, news=True)
                else:
                    delay = 0.02 * 2.0 ** min(lost - FREE_CONFLICTS, 10)
                    self.wake_after(key, min(delay, LONGEST_CONFLICT_DELAY))
            case BackOff(first, longest, at_least):
                failures = self._count_failure(key)
                delay = max(min(first * 2.0 ** min(failures - 1, 30), longest), at_least)
                floor = self._now() + max(at_least, NUDGED_FLOOR)
                self._not_before[key] = floor
                self._schedule(key, floor if nudged else self._now() + delay)

    def _count_failure(self, key: K) -> int:
        self._failures[key] = self._failures.get(key, 0) + 1
        return self._failures[key]

    def _enqueue(self, key: K, *, news: bool = False) -> None:
        if self._closed:
            return
        if key not in self._ready_since:
            self._cancel_timer(key)
            self._ready.append(key)
            self._ready_since[key] = self._now()
            self._arrival.set()
        if news and key not in self._with_news:
            self._with_news.add(key)
            self._news.append(key)
            self._hire()

    def _hire(self) -> None:
        """One more helper, if those who are free do not suffice for all who wait."""
        if (
            self._group is not None
            and self._helping < self._helpers
            and len(self._ready_since) > self._idle
        ):
            self._helping += 1
            self._group.create_task(self._help(), name="queue helper")

    def _schedule(self, key: K, due: float) -> None:
        """Let ``key`` run at ``due`` unless it runs sooner anyway."""
        if self._closed or key in self._ready_since:
            return
        timer = self._timers.get(key)
        if timer is not None and timer.due <= due:
            return
        self._cancel_timer(key)
        loop = asyncio.get_running_loop()
        self._timers[key] = _Timer(loop.call_at(due, self._ring, key), due)

    def _ring(self, key: K) -> None:
        self._timers.pop(key, None)
        self._not_before.pop(key, None)
        if key in self._running_since:
            self._nudged_while_running.add(key)
        else:
            self._enqueue(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.handle.cancel()

    def _age(self, since: dict[K, float]) -> float:
        # Both dicts are ordered by insertion, and time only grows: the first is the oldest.
        oldest = next(iter(since.values()), None)
        return 0.0 if oldest is None else self._now() - oldest

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
