"""The gate's evidence as Prometheus reads it: all of the numbers, and none after the end."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry, generate_latest

from llmrollouts.analysis.reach import Reach
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.controller.keys import Key
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.metrics.record import PlaceboResult
from llmrollouts.rollout.observation import Gate, GateNumbers, MetricNumbers
from tests.controller.test_gate_engine import observe, rolling

KEY = Key("prod", "chat")
GATE = Gate(
    "latency",
    "Passed",
    "NoHarm",
    "no harm was seen",
    proof="Collecting",
    numbers=GateNumbers(
        canary_requests=120,
        control_requests=480,
        metrics=(MetricNumbers("ttft", evidence=3.5, needed=1200.0, p50=1.02, p99=1.4),),
    ),
    power=Reach("0.01", "", True, "this step can find nothing"),
)


def make_text(telemetry: Telemetry) -> str:
    return generate_latest(telemetry.registry).decode()


def show(*gates: Gate) -> Telemetry:
    telemetry = Telemetry(CollectorRegistry())
    seen = observe(rolling(), [])
    telemetry.describe(KEY, replace(seen, gates=gates), LLMDeploymentStatus())
    return telemetry


def test_r23_a_verdict_carries_its_numbers() -> None:
    telemetry = show(GATE)
    telemetry.note_placebo(KEY, PlaceboResult(stages=4, firings=1))
    text = make_text(telemetry)
    one = 'name="chat",namespace="prod"'
    verdict = f'llmrollouts_gate_verdict{{gate="latency",{one},reason="NoHarm",verdict="Passed"}} 1'
    ratio = f'llmrollouts_gate_ratio{{gate="latency",metric="ttft",{one},quantile="p99"}} 1.4'
    for line in (
        verdict,
        ratio,
        f'llmrollouts_gate_samples{{arm="canary",gate="latency",{one}}} 120.0',
        f'llmrollouts_gate_evidence{{gate="latency",metric="ttft",{one}}} 3.5',
        f'llmrollouts_gate_needed{{gate="latency",metric="ttft",{one}}} 1200.0',
        f'llmrollouts_gate_blind{{gate="latency",{one}}} 1.0',
        f'llmrollouts_gate_proven{{gate="latency",{one}}} 0.0',
        f"llmrollouts_placebo_firings{{{one}}} 1.0",
    ):
        assert line in text


def test_r12_the_series_vanish_with_the_rollout_and_with_the_object() -> None:
    telemetry = show(GATE)
    telemetry.note_placebo(KEY, PlaceboResult(stages=4, firings=1))
    telemetry.describe(KEY, observe(LLMDeploymentStatus(), []), LLMDeploymentStatus())
    text = make_text(telemetry)
    assert "llmrollouts_gate_verdict{" not in text
    assert "llmrollouts_placebo_stages{" not in text
    again = show(GATE)
    again.forget(KEY)
    assert 'name="chat"' not in make_text(again)
