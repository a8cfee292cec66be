"""A few replicas that campaign for one Lease, each behind a network and a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import looptime

from llmrollouts.api.manifest import Manifest
from llmrollouts.kube.elector import Elector, LeadershipLost
from llmrollouts.kube.lease import LeaseTiming
from llmrollouts.kube.port import LEASE, Kind, Transient
from tests.fakes.kube import FakeKube

TAKE_OVER = 9.0  # seconds: what the design promises
SPACE, NAME = "llm-rollouts-system", "llm-rollouts"


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``test`` on an event loop whose sleeps take no time."""

    def make_loop() -> asyncio.AbstractEventLoop:
        return looptime.new_event_loop(start=1000.0)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(test())


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Link:
    """One replica's network to the API server.

    mode: ok; down (an error at once); hang (no answer); deaf (the request is done, the answer never
    comes). delay: seconds of each request, all of them before its effect.
    """

    kube: FakeKube
    mode: str = "ok"
    delay: float = 0.0
    requests: int = 0

    async def _pass(self, request: Callable[[], Awaitable[Manifest]]) -> Manifest:
        self.requests += 1
        mode = self.mode
        await asyncio.sleep(self.delay)
        if mode == "down":
            raise Transient("no connection")
        if mode == "hang":
            await asyncio.Event().wait()
        answer = await request()
        if mode == "deaf":
            await asyncio.Event().wait()
        return answer

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        return await self._pass(lambda: self.kube.get(kind, namespace, name))

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._pass(lambda: self.kube.create(kind, manifest))

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._pass(lambda: self.kube.replace(kind, manifest))


@dataclass
class Replica:
    """A process that campaigns. rate: how fast its monotonic clock runs; wall_off: by how much
    its wall clock is wrong; jump: seconds that it was frozen."""

    name: str
    link: Link
    rate: float = 1.0
    wall_off: timedelta = timedelta()
    jump: float = 0.0
    started: list[tuple[float, int]] = field(default_factory=list)
    stopped: list[tuple[float, str]] = field(default_factory=list)
    elector: Elector = field(init=False)
    task: asyncio.Task[None] = field(init=False)

    def start(self, timing: LeaseTiming | None = None) -> Replica:
        born = now()
        self.elector = Elector(
            self.link,
            SPACE,
            NAME,
            self.name,
            on_started=lambda epoch: self.started.append((now(), epoch)),
            on_stopped=lambda reason: self.stopped.append((now(), reason)),
            timing=timing,
            clock=lambda: born + (now() - born) * self.rate + self.jump,
            wall=lambda: (
                datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=now()) + self.wall_off
            ),
        )
        self.task = asyncio.create_task(self.elector.run())
        return self

    @property
    def leads(self) -> bool:
        return self.elector.is_leader()

    async def stop(self) -> BaseException | None:
        """SIGKILL, as far as the others see. Returns what the election ended with before, if so."""
        self.task.cancel()
        (outcome,) = await asyncio.gather(self.task, return_exceptions=True)
        return outcome if isinstance(outcome, LeadershipLost) else None


def lease_of(kube: FakeKube) -> Manifest:
    found = kube.peek(LEASE, SPACE, NAME)
    assert found is not None
    spec: Manifest = found["spec"]
    return spec
