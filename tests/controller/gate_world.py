"""A deployment in the middle of a rollout, second by second: workers, gateways, one measurement.

Time is moved by the test; nothing sleeps. Each second brings requests at random moments to each
worker; then the measurement looks once.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from llmrollouts.analysis.policy import Policy
from llmrollouts.api.share import Share
from llmrollouts.controller.assignment import Assignment
from llmrollouts.controller.evidence import EvidenceStore
from llmrollouts.controller.keys import Key
from llmrollouts.controller.measure import Means, Measurement
from llmrollouts.metrics.port import Candidate
from llmrollouts.resources.children import Owner
from llmrollouts.rollout.intent import (
    DeploymentTraffic,
    RequestCounts,
    RevisionTraffic,
    TrafficObservation,
)
from llmrollouts.rollout.observation import Gate
from tests.fakes.kube import FakeKube
from tests.fakes.taps import FakeReader, FakeTap, Law

START = 1_767_614_400.0  # 2026-01-05 12:00 UTC
STABLE, CANARY = "stablestab", "canarycana"
KEY = Key("prod", "chat")
UID = "uid-chat"


class Gateways:
    """Implements TrafficPort for one deployment; counts what the world sends."""

    def __init__(self) -> None:
        self.counts = {STABLE: RequestCounts(), CANARY: RequestCounts()}
        self.share, self.mirror = Share(5_000), Share(245_000)
        self.report_age: float | None = 0.5
        self.source = "life-1"

    def program(self, traffic: DeploymentTraffic) -> None: ...

    def renew(self, uid: str) -> None: ...

    def forget(self, uid: str) -> None: ...

    def observe(self, uid: str) -> TrafficObservation:
        revisions = (
            RevisionTraffic(STABLE, ()),
            RevisionTraffic(CANARY, (), share=self.share, mirror=self.mirror, fallback=STABLE),
        )
        return TrafficObservation(
            programmed=DeploymentTraffic("prod", "chat", UID, STABLE, revisions),
            settled=True,
            gateways=1,
            settled_gateways=1,
            report_age=self.report_age,
            counts=dict(self.counts),
            source=self.source,
        )

    def count(self, revision: str, live: int, mirrored: int, errors: int = 0) -> None:
        was = self.counts[revision]
        self.counts[revision] = RequestCounts(
            was.issued + live, was.saved, was.errors + errors, was.mirrored + mirrored
        )


class World:
    """rate: requests a second and worker."""

    def __init__(self, stable: int = 4, canary: int = 1, rate: float = 20.0, seed: int = 1) -> None:
        self.time = START
        self.rng = random.Random(seed)
        self.rate = rate
        self.canary_rate = rate
        self.kube = FakeKube(now=lambda: datetime.fromtimestamp(self.time, UTC))
        self.gateways = Gateways()
        self.reader = FakeReader(lambda: self.time)
        self.stable = [
            self.reader.add(FakeTap(f"s{i}", self.clock, skew=START - 1000.5 * (i + 1)))
            for i in range(stable)
        ]
        self.canary = [
            self.reader.add(FakeTap(f"c{i}", self.clock, skew=START - 3333.3 * (i + 1)))
            for i in range(canary)
        ]
        self.law, self.canary_law = Law(), Law()
        self.nudges = 0
        self.stage = f"{CANARY}/1/1-Canary-5000"
        self.level = 0.002
        self.options: dict[str, Any] = {}
        self.began = START
        self.gone: set[str] = set()
        self.cold: set[str] = set()
        self.measurement = self.start()

    def clock(self) -> float:
        return self.time

    def start(self) -> Measurement:
        """A process of the operator that knows only what is stored."""
        owner = Owner(KEY.namespace, KEY.name, UID)
        self.measurement = Measurement(
            self.assignment(),
            Means(self.reader, self.gateways, self.clock),
            EvidenceStore(self.kube, self.kube, owner),
            self._nudge,
        )
        return self.measurement

    def _nudge(self) -> None:
        self.nudges += 1

    def assignment(self) -> Assignment:
        kind: Literal["Shadow", "Canary"] = "Shadow" if "Shadow" in self.stage else "Canary"
        given = Assignment(
            key=KEY,
            uid=UID,
            stage=self.stage,
            level=self.level,
            judged=CANARY,
            reference=STABLE,
            canary=self._candidates(self.canary),
            control=self._candidates(self.stable),
            kind=kind,
            ticks=1800,
            matches_load=kind == "Canary",
            observes=False,
            placebo=False,
            policy=Policy(),
            started_at=datetime.fromtimestamp(self.began, UTC),
        )
        return replace(given, **self.options)

    def _candidates(self, taps: list[FakeTap]) -> tuple[Candidate, ...]:
        return tuple(
            Candidate(tap.worker, True, tap.worker.name not in self.cold)
            for tap in taps
            if tap.worker.name not in self.gone
        )

    def serve(self) -> None:
        """The requests of one second, then its end."""
        for taps, law, rate, revision in (
            (self.stable, self.law, self.rate, STABLE),
            (self.canary, self.canary_law, self.canary_rate, CANARY),
        ):
            for tap in taps:
                if tap.worker.name in self.gone:
                    continue
                moments = self._moments(rate)
                for at in moments:
                    tap.serve(at, law, self.rng, mirrored=revision == CANARY)
                if revision == CANARY:
                    self.gateways.count(CANARY, 0, len(moments))
                else:
                    self.gateways.count(STABLE, len(moments), 0)
        self.time += 1.0

    def _moments(self, rate: float) -> list[float]:
        moments, at = [], self.rng.expovariate(rate) if rate else 2.0
        while at < 1.0:
            moments.append(self.time + at)
            at += self.rng.expovariate(rate)
        return moments

    async def second(self) -> Gate:
        self.serve()
        self.measurement.assign(self.assignment())
        await self.measurement.look()
        (gate,) = self.measurement.gates()
        return gate

    async def run(self, seconds: int) -> Gate:
        gate = await self.second()
        for _ in range(seconds - 1):
            gate = await self.second()
        return gate

    async def run_until(self, verdict: str, limit: int = 120) -> int:
        """Seconds until the gate says so."""
        for number in range(limit):
            if (await self.second()).verdict == verdict:
                return number + 1
        raise AssertionError(f"never {verdict}: {self.measurement.gates()}")

    async def warm_up(self, seconds: int = 150) -> None:
        """What stable workers remember before the rollout."""
        canary, self.canary = self.canary, []
        for _ in range(seconds):
            self.serve()
        self.canary = canary
        self.began = self.time
