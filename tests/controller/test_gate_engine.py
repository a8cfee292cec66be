"""The gate's engine: what starts and stops a measurement, by what a round observes."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmrollouts.api.deployment import read_spec
from llmrollouts.api.status import (
    AttemptStatus,
    LLMDeploymentStatus,
    StepStatus,
    WarmStatus,
)
from llmrollouts.controller.assignment import assign
from llmrollouts.controller.errors import NotLeading
from llmrollouts.controller.gate_engine import GateEngine
from llmrollouts.controller.keys import Key
from llmrollouts.controller.measure import Means
from llmrollouts.rollout.intent import TrafficObservation
from llmrollouts.rollout.observation import Deployment, Observation, WorkerPod
from tests.controller.gate_world import CANARY, KEY, STABLE, START, UID, Gateways
from tests.controller.shell import make_deployment
from tests.fakes.kube import FakeKube
from tests.fakes.taps import FakeReader, FakeTap, Law

pytestmark = pytest.mark.looptime


def observe(status: LLMDeploymentStatus, taps: list[FakeTap], **spec: Any) -> Observation:
    manifest = make_deployment()
    manifest["spec"]["gates"] = {"latency": {"mode": "Enforce", **spec}}
    pods = tuple(
        WorkerPod(
            tap.worker.name,
            tap.worker.uid,
            CANARY if tap.worker.name.startswith("c") else STABLE,
            tap.worker.address,
            ready=True,
            terminating=False,
        )
        for tap in taps
    )
    deployment = Deployment("prod", "chat", UID, 1, read_spec(manifest), status)
    return Observation(deployment, "{}", {}, None, (), (), pods, frozenset(), TrafficObservation())


def rolling(index: int = 1) -> LLMDeploymentStatus:
    began = datetime.fromtimestamp(START, UTC)
    return LLMDeploymentStatus(
        stable_revision=STABLE,
        canary_revision=CANARY,
        step=StepStatus(index=index, kind="Canary", share="0.5%", started_at=began),
        attempt=AttemptStatus(
            revision=CANARY,
            number=1,
            started_at=began,
            error_budget=0.01,
            stage=f"{CANARY}/1/{index}-Canary-5000",
            level=0.002,
        ),
    )


class Process:
    """An engine in a world whose clock is the event loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.kube = FakeKube()
        self.reader = FakeReader(self.clock)
        self.taps = [
            self.reader.add(FakeTap(name, self.clock, skew=START - 500.0))
            for name in ("c0", "s0", "s1", "s2", "s3")
        ]
        self.leads = True
        self.nudged: list[Key] = []
        means = Means(self.reader, Gateways(), self.clock)
        self.engine = GateEngine(
            means, self.kube, self.kube, lambda: self.leads, self.nudged.append
        )
        self.rng = random.Random(1)
        self.canary_law = Law()

    def clock(self) -> float:
        return START + self._loop.time()

    async def live(self, seconds: int) -> None:
        """Requests come, and the engine's tasks run."""
        for _ in range(seconds):
            for tap in self.taps:
                law = self.canary_law if tap.worker.name == "c0" else Law()
                for _ in range(20):
                    tap.serve(self.clock() + self.rng.random(), law, self.rng)
            await asyncio.sleep(1)


async def test_a_rollout_is_measured_and_harm_wakes_the_round() -> None:
    process = Process()
    process.engine.judge(observe(LLMDeploymentStatus(stable_revision=STABLE), process.taps))
    await process.live(60)
    seen = observe(rolling(), process.taps)
    (gate,) = process.engine.judge(seen)
    assert (gate.verdict, gate.reason, gate.stage) == (
        "Inconclusive",
        "GateSilent",
        f"{CANARY}/1/1-Canary-5000",
    )
    await process.live(30)
    (gate,) = process.engine.judge(seen)
    assert gate.verdict == "Passed"
    process.nudged.clear()
    process.canary_law = Law(failing=0.5)
    await process.live(15)
    assert process.nudged == [KEY]
    (gate,) = process.engine.judge(seen)
    assert (gate.verdict, gate.reason) == ("Failed", "MoreErrors")
    await process.engine.stop()
    assert process.reader.closed


async def test_what_is_over_is_no_longer_measured() -> None:
    process = Process()
    idle = LLMDeploymentStatus(stable_revision=STABLE)
    process.engine.judge(observe(rolling(), process.taps))
    assert process.engine.running == {KEY}
    assert process.engine.judge(observe(idle, process.taps)) == ()
    assert process.engine.running == frozenset()
    await asyncio.sleep(3)
    reads = [tap.reads for tap in process.taps]
    await asyncio.sleep(10)
    assert [tap.reads for tap in process.taps] == reads
    await process.engine.stop()


async def test_a_deleted_deployment_is_forgotten_and_a_new_one_begins_anew() -> None:
    process = Process()
    seen = observe(rolling(), process.taps)
    process.engine.judge(seen)
    process.engine.forget(KEY)
    assert process.engine.running == frozenset()
    process.engine.judge(seen)
    first = process.engine._running[KEY]
    process.engine.judge(replace(seen, deployment=replace(seen.deployment, uid="another")))
    assert process.engine._running[KEY] is not first
    await process.engine.stop()


async def test_mode_off_measures_nothing() -> None:
    process = Process()
    assert process.engine.judge(observe(rolling(), process.taps, mode="Off")) == ()
    assert process.engine.running == frozenset()
    await process.engine.stop()


async def test_a_standby_measures_nothing_and_passes_nothing() -> None:
    process = Process()
    process.leads = False
    (gate,) = process.engine.judge(observe(rolling(), process.taps))
    assert gate.verdict == "Inconclusive"
    assert process.engine.running == frozenset()
    await process.engine.stop()


async def test_a_bug_is_an_error_and_never_an_exception() -> None:
    process = Process()
    seen = observe(rolling(), process.taps)
    broken = replace(seen, pods=(None,))  # type: ignore[arg-type]
    (gate,) = process.engine.judge(broken)
    assert (gate.verdict, gate.reason) == ("Error", "GateBroken")
    await process.engine.stop()


async def test_workers_that_just_became_ready_are_cold() -> None:
    process = Process()
    seen = observe(rolling(), process.taps)
    assert process.engine._note_ready(KEY, seen.pods) == {}
    await asyncio.sleep(11)
    assert set(process.engine._note_ready(KEY, seen.pods)) == {p.uid for p in seen.pods}
    unready = tuple(replace(pod, ready=pod.name != "s1") for pod in seen.pods)
    process.engine._note_ready(KEY, unready)
    assert "uid-s1" not in process.engine._note_ready(KEY, seen.pods)
    await process.engine.stop()


async def test_a_process_that_lost_its_lease_stores_nothing_more() -> None:
    process = Process()

    class Deposed:
        async def apply(self, kind: object, manifest: object) -> dict[str, Any]:
            raise NotLeading("the lease is not ours (any more)")

    process.engine._writer = Deposed()
    process.engine.judge(observe(rolling(), process.taps))
    await process.live(15)
    assert process.engine.running == {KEY}
    await process.engine.stop()


def test_after_the_promotion_the_new_revision_is_held_against_the_old_one() -> None:
    began = datetime.fromtimestamp(START, UTC)
    watched = LLMDeploymentStatus(
        stable_revision=CANARY,
        warm=WarmStatus(revision=STABLE, until=began + timedelta(seconds=20)),
        attempt=replace_attempt(stage=f"{CANARY}/1/watch"),
    )
    assigned = assign(observe(watched, []), {})
    assert assigned is not None
    assert (assigned.judged, assigned.reference) == (CANARY, STABLE)
    assert assigned.reverses
    assert assigned.ticks == 20
    assert assigned.started_at == began


def replace_attempt(**changes: Any) -> AttemptStatus:
    attempt = rolling().attempt
    assert attempt is not None
    return attempt.model_copy(update=changes)


def test_an_attempt_of_another_revision_is_no_stage_of_this_one() -> None:
    status = rolling().model_copy(update={"attempt": replace_attempt(revision="older")})
    assigned = assign(observe(status, []), {})
    assert assigned is not None
    assert (assigned.stage, assigned.level) == ("", 0.0)


def test_objectives_that_contradict_each_other_are_said() -> None:
    seen = observe(rolling(), [])
    spec = seen.deployment.spec
    odd = spec.model_copy(
        update={"objectives": spec.objectives.model_copy(update={"ttft_p99": "0ms"})}
    )
    assigned = assign(replace(seen, deployment=replace(seen.deployment, spec=odd)), {})
    assert assigned is not None
    assert assigned.policy is None
    assert "smallest latency" in assigned.problem
