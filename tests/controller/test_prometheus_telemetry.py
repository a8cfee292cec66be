"""What the operator's metrics say of gates from Prometheus: asks, their time, the last answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry, generate_latest

from llmrollouts.api.reasons import Reason
from llmrollouts.controller.prometheus_asking import Asked
from llmrollouts.controller.telemetry import Telemetry
from llmrollouts.metrics.prometheus_answer import Unanswered
from llmrollouts.rollout.observation import Gate
from tests.controller.prometheus_bench import KEY, Bench, make_gate, make_status, observe

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

ONE = f'name="{KEY.name}",namespace="{KEY.namespace}"'


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.gates.stop()


def make_text(telemetry: Telemetry) -> str:
    return generate_latest(telemetry.registry).decode()


def describe(telemetry: Telemetry, *gates: str) -> None:
    said = tuple(Gate(name, "Passed", "WithinLimit", "") for name in gates)
    telemetry.describe(KEY, replace(observe(), gates=said), make_status())


async def test_each_ask_is_told_with_its_result_time_and_value(bench: Bench) -> None:
    bench.prometheus.answers = [0.2, Unanswered(Reason.NO_SERIES, "no series"), RuntimeError(), 0.3]
    bench.prometheus.seconds = 1.5
    bench.judge()
    await asyncio.sleep(125)
    assert [(asked.result, asked.value) for asked in bench.asked] == [
        ("Answered", 0.2),
        ("NoSeries", None),
        ("GateBroken", None),
        ("Answered", 0.3),
    ]
    assert {(asked.key, asked.gate) for asked in bench.asked} == {(KEY, "cost")}
    assert [asked.seconds for asked in bench.asked] == pytest.approx([1.5] * 4)


async def test_a_comparison_is_told_by_its_ratio(bench: Bench) -> None:
    bench.prometheus.answers = [(0.3, 0.2)]
    bench.judge(make_gate(limit=None, compare={"maxRatio": "2"}))
    await asyncio.sleep(31)
    assert bench.asked[0].value == pytest.approx(1.5)


async def test_a_gate_that_cannot_be_asked_is_no_ask(bench: Bench) -> None:
    bench.judge(make_gate(address="https://other.example"))
    await asyncio.sleep(100)
    assert bench.asked == []


async def test_asks_are_counted_by_result_and_timed() -> None:
    telemetry = Telemetry(CollectorRegistry())
    for result, seconds in (("Answered", 0.03), ("Answered", 0.2), ("NotReached", 10.0)):
        telemetry.count_asked(Asked(KEY, "cost", result, seconds))
    text = make_text(telemetry)
    for line in (
        'llmrollouts_prometheus_asks_total{result="Answered"} 2.0',
        'llmrollouts_prometheus_asks_total{result="NotReached"} 1.0',
        "llmrollouts_prometheus_ask_seconds_count 3.0",
        'llmrollouts_prometheus_ask_seconds_bucket{le="0.05"} 1.0',
        'llmrollouts_prometheus_ask_seconds_bucket{le="10.0"} 3.0',
    ):
        assert line in text


async def test_the_last_answer_of_each_gate_is_shown_until_there_is_none() -> None:
    telemetry = Telemetry(CollectorRegistry())
    telemetry.count_asked(Asked(KEY, "cost", "Answered", 0.1, 0.2))
    telemetry.count_asked(Asked(KEY, "cost", "Answered", 0.1, 0.25))
    telemetry.count_asked(Asked(KEY, "speed", "Answered", 0.1, 1.5))
    text = make_text(telemetry)
    assert f'llmrollouts_gate_answer{{gate="prometheus/cost",{ONE}}} 0.25' in text
    assert f'llmrollouts_gate_answer{{gate="prometheus/speed",{ONE}}} 1.5' in text
    telemetry.count_asked(Asked(KEY, "cost", "NoSeries", 0.1))
    assert "prometheus/cost" not in make_text(telemetry), "an old number is not the last answer"


async def test_the_series_of_a_gate_end_with_it() -> None:
    telemetry = Telemetry(CollectorRegistry())
    for name in ("cost", "speed"):
        telemetry.count_asked(Asked(KEY, name, "Answered", 0.1, 0.2))
    describe(telemetry, "prometheus/cost", "prometheus/speed")
    assert make_text(telemetry).count("llmrollouts_gate_answer{") == 2
    describe(telemetry, "prometheus/speed")
    assert make_text(telemetry).count("llmrollouts_gate_answer{") == 1
    describe(telemetry)
    assert "llmrollouts_gate_answer{" not in make_text(telemetry)
    telemetry.count_asked(Asked(KEY, "cost", "Answered", 0.1, 0.2))
    telemetry.forget(KEY)
    assert "llmrollouts_gate_answer{" not in make_text(telemetry)
