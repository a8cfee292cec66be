"""The operator's HTTP page on 8080: /healthz, /readyz, /metrics.

It decides when this process is beyond help (/healthz answers 500 and the kubelet restarts it): a
watch is silent although the API server answers, a round hangs, or keys wait and no round begins.
A stalled event loop answers nothing at all, which fails the probe as well. An API server that is
away is *not* a reason: restarting would only lose the routes that this process still serves.
Called by controller/operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

LOG: Final = logging.getLogger(__name__)

# A round that takes longer hangs: its requests have time-outs of a few seconds each.
LONGEST_ROUND: Final = 60.0
# Keys that wait this long while no round has begun at all: the queue stands still.
LONGEST_STANDSTILL: Final = 60.0

# Watches are granted anew every 240 s (controller/watch); one that was not is dead.
OLDEST_WATCH: Final = 360.0
# Events arrive within milliseconds of the write; a watch this far behind has lost some.
LONGEST_LAG: Final = 60.0

# Names what is wrong, or None.
Check: TypeAlias = Callable[[], str | None]


class HealthPage:
    """``alive``: reasons to be restarted. ``ready``: reasons not to be counted as available."""

    def __init__(
        self, registry: CollectorRegistry, alive: Sequence[Check], ready: Sequence[Check]
    ) -> None:
        self._registry = registry
        self._alive = tuple(alive)
        self._ready = tuple(ready)
        self._runner: web.AppRunner | None = None
        self.app = web.Application()
        self.app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )

    async def start(self, host: str, port: int) -> int:
        """Serve; the port that is really used (for ``port`` 0)."""
        self._runner = web.AppRunner(self.app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        addresses: list[tuple[str, int]] = self._runner.addresses
        return int(addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self._alive, 500)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self._ready, 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _answer(checks: Sequence[Check], failure: int) -> web.Response:
    problems = [problem for check in checks if (problem := check()) is not None]
    if problems:
        LOG.warning("Answered a probe with failure", extra={"problems": "; ".join(problems)})
        return web.Response(status=failure, text="\n".join(problems) + "\n")
    return web.Response(text="ok\n")


def check_rounds(longest_running: Callable[[], float]) -> Check:
    def check() -> str | None:
        age = longest_running()
        return f"a round has been running for {age:.0f} s" if age > LONGEST_ROUND else None

    return check


def check_movement(
    oldest_waiting: Callable[[], float], since_start: Callable[[], float | None]
) -> Check:
    def check() -> str | None:
        waiting, started = oldest_waiting(), since_start()
        still = waiting if started is None else min(waiting, started)
        if still <= LONGEST_STANDSTILL:
            return None
        return f"a key has waited for {waiting:.0f} s and no round began for {still:.0f} s"

    return check


def check_watches(
    age: Callable[[], dict[str, float]],
    lag: Callable[[], dict[str, float]],
    api_answers: Callable[[], bool],
) -> Check:
    """Dead watches count only while the API server answers others: else it is simply away."""

    def check() -> str | None:
        if not api_answers():
            return None
        for kind, seconds in age().items():
            if seconds > OLDEST_WATCH:
                return f"the watch of {kind} has been silent for {seconds:.0f} s"
        for kind, seconds in lag().items():
            if seconds > LONGEST_LAG:
                return f"the watch of {kind} has lost events for {seconds:.0f} s"
        return None

    return check


class LoopMonitor:
    """Measures how late the event loop runs a timer, twice a second."""

    PERIOD: Final = 0.5

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.PERIOD
            await asyncio.sleep(self.PERIOD)
            self._report(max(0.0, loop.time() - due))
