"""The control plane in a test: an ``EnvoyTraffic`` in this process, and one in its own process
that can be frozen and killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from e2e.harness.processes import closed_port
from llmrollouts.api.share import NONE, Share
from llmrollouts.rollout.intent import DeploymentTraffic, Endpoint, RevisionTraffic
from llmrollouts.traffic.gateway import EnvoyTraffic
from llmrollouts.traffic.settings import GatewaySettings, Timing

UID = "0a1b2c3d-0000-4000-8000-000000000001"
QUICK = Timing(ttl=3.0, heartbeat=0.5, lease=2.0)


@dataclass
class Leader:
    """Leadership as told."""

    leads: bool = True
    fresh: bool = True

    def may_push(self) -> bool:
        return self.leads

    def lease_is_fresh(self) -> bool:
        return self.fresh


def make_traffic(
    *revisions: RevisionTraffic,
    default: str | None = "v1",
    name: str = "chat",
    namespace: str = "prod",
    uid: str = UID,
) -> DeploymentTraffic:
    return DeploymentTraffic(namespace, name, uid, default, revisions)


def stable(*endpoints: Endpoint, name: str = "v1") -> RevisionTraffic:
    return RevisionTraffic(name, endpoints)


def canary(
    *endpoints: Endpoint,
    share: str = "0%",
    mirror: str = "0%",
    name: str = "v2",
    fallback: str | None = "v1",
) -> RevisionTraffic:
    return RevisionTraffic(name, endpoints, Share.parse(share), Share.parse(mirror), fallback)


def at_rest(traffic: DeploymentTraffic) -> DeploymentTraffic:
    """The same with every share and mirror 0."""
    return replace(
        traffic,
        revisions=tuple(replace(r, share=NONE, mirror=NONE) for r in traffic.revisions),
    )


@dataclass
class Control:
    """traffic: the provider; it is renewed twice a second while ``deciding``."""

    traffic: EnvoyTraffic
    leader: Leader
    port: int
    deciding: bool = True
    uids: set[str] = field(default_factory=set)

    def program(self, wanted: DeploymentTraffic) -> None:
        self.uids.add(wanted.uid)
        self.traffic.program(wanted)
        self.traffic.renew(wanted.uid)

    async def settle(self, uid: str = UID, within: float = 10) -> None:
        async with asyncio.timeout(within):
            while not self.traffic.observe(uid).settled:
                await asyncio.sleep(0.005)
        # Envoy's main thread has acknowledged; its workers follow within a turn of their loops.
        await asyncio.sleep(0.05)

    async def settle_on(self, wanted: DeploymentTraffic, within: float = 10) -> None:
        self.program(wanted)
        await self.settle(wanted.uid, within)

    async def until(self, met: Callable[[], bool], within: float = 10) -> None:
        async with asyncio.timeout(within):
            while not met():
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def start_control(
    *wanted: DeploymentTraffic,
    gateways: tuple[str, ...] = ("gateway-0",),
    timing: Timing = QUICK,
    opened: bool = True,
    port: int = 0,
    credentials: Any = None,
    leader: Leader | None = None,
    settings: GatewaySettings | None = None,
) -> AsyncIterator[Control]:
    leader = leader or Leader()
    settings = replace(settings or GatewaySettings(), listen_address="127.0.0.1", timing=timing)
    traffic = EnvoyTraffic(leader, settings)
    bound = await traffic.start(f"127.0.0.1:{port}", credentials)
    control = Control(traffic, leader, bound)
    for one in wanted:
        control.program(one)
    traffic.set_gateways(gateways)
    if opened:
        traffic.open()

    async def decide() -> None:
        while True:
            await asyncio.sleep(min(0.5, timing.lease / 4))
            if control.deciding:
                for uid in control.uids:
                    traffic.renew(uid)

    rounds = asyncio.create_task(decide())
    try:
        yield control
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await traffic.stop()


@dataclass
class ControlProcess:
    """The control plane as a process of its own."""

    process: subprocess.Popen[bytes]
    port: int

    def signal(self, how: signal.Signals) -> None:
        self.process.send_signal(how)


@contextlib.contextmanager
def start_control_process(*words: str, timing: Timing = QUICK) -> Any:
    """``words``: default, then revision:port:share:fallback for each revision."""
    port = closed_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.traffic.control", str(port), str(timing.ttl), *words],
        cwd=Path(__file__).parents[2],
    )
    try:
        yield ControlProcess(process, port)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def parse_words(words: list[str]) -> DeploymentTraffic:
    default, *rest = words
    revisions = []
    for text in rest:
        name, port, share, fallback = text.split(":")
        revisions.append(
            RevisionTraffic(
                name,
                (Endpoint("127.0.0.1", int(port), f"pod-{name}"),),
                Share.parse(share),
                fallback=fallback or None,
            )
        )
    return make_traffic(*revisions, default=default)


async def _main(port: int, ttl: float, words: list[str]) -> None:
    timing = replace(QUICK, ttl=ttl)
    async with start_control(parse_words(words), timing=timing, port=port):
        await asyncio.sleep(300)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
