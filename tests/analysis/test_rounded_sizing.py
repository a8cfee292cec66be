"""What a step can find without the tap: over the next bound of a histogram, or not at all."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from llmrollouts.analysis import rounded_sizing
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import GROWTH
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.reach import Power, Reach, describe_reach
from llmrollouts.analysis.rounded_sizing import (
    Latency,
    RoundedStep,
    find_rounded_power,
    find_rounded_reach,
    freeze_rounded,
    round_stable,
)
from llmrollouts.analysis.rounding import VLLM_BOUNDS
from llmrollouts.analysis.sizing import find_power, make_setting
from llmrollouts.analysis.stage import freeze_stage
from llmrollouts.metrics.engine_metrics import FAMILIES

RECORDED = Path(__file__).parents[2] / "worker_image" / "fake_engine" / "recorded.json"
STEP = RoundedStep(Policy(), 0.002, 1800, 1, 10.0, 40.0)
FINE = (*(0.001 * GROWTH ** (2 * i) for i in range(100)), math.inf)


def latencies(
    ttft: float, tpot: float = 0.03, bounds: tuple[float, ...] | None = None, sigma: float = 0.5
) -> tuple[Latency, ...]:
    return tuple(
        Latency(metric, median, sigma, bounds or VLLM_BOUNDS[metric])
        for metric, median in ((Metric.TTFT, ttft), (Metric.TPOT, tpot))
    )


def find(*given: Latency, step: RoundedStep = STEP) -> dict[str, Power]:
    return {power.effect.name: power for power in find_rounded_power(step, given)}


def test_the_bounds_are_those_of_the_recorded_vllm() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["metrics"]
    for family, metric in FAMILIES.items():
        if metric in VLLM_BOUNDS:
            shown = tuple(float(bound) for bound in recorded[family]["buckets"])
            assert VLLM_BOUNDS[metric] == shown


def test_what_stays_between_two_bounds_is_not_found() -> None:
    """Between 100 and 250 ms vLLM has no bound."""
    found = find(*latencies(0.095))
    assert found["ttft 2x"].median is None
    assert found["ttft 4x"].p95 is not None
    assert find(*latencies(0.095, bounds=FINE))["ttft 2x"].p95 is not None


@pytest.mark.parametrize("median", [0.06, 0.2, 0.55])
def test_no_median_beside_the_given_one_and_no_smaller_spread_breaks_the_promise(
    median: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = find(*latencies(median))
    monkeypatch.setattr(rounded_sizing, "_BESIDE", (1.0,))
    monkeypatch.setattr(rounded_sizing, "_SPREADS", (1.0,))
    for beside in (0.9, 1.0, 1.1):
        for sigma in (0.25, 0.5):
            exact = find(*latencies(beside * median, sigma=sigma))
            for name in ("ttft +50%", "ttft 2x", "ttft 4x"):
                promised, true = told[name].p95, exact[name].p95
                assert promised is None or (true is not None and true <= 1.1 * promised + 1), name


@pytest.mark.parametrize("median", [0.03, 0.06, 0.2, 0.6, 1.7])
def test_with_the_tap_no_less_is_found(median: float) -> None:
    given = latencies(median)
    tapped = {
        power.effect.name: power
        for power in find_power(make_setting(freeze_rounded(STEP, given), 10.0, 40.0))
    }
    for name, power in find(*given).items():
        exact = tapped[name.removeprefix("ttft ").removeprefix("tpot ")]
        if power.p95 is not None:
            assert exact.p95 is not None
            assert exact.p95 <= power.p95 + 1, name


def test_an_effect_inside_the_margin_is_never_found() -> None:
    for bounds in (None, FINE):
        found = find(*latencies(0.2, bounds=bounds))
        assert (found["ttft +10%"].median, found["tpot +10%"].median) == (None, None)


def test_probes_hide_what_a_few_requests_show() -> None:
    """One request in ten seconds stands beside ten probes."""
    few = find(*latencies(0.2), step=replace(STEP, canary=0.1, control=0.4))
    assert few["ttft 4x"].p95 is None
    assert few["100% errors"].p95 is not None
    none = find(*latencies(0.2), step=replace(STEP, canary=0.0))
    assert all(power.median is None for power in none.values())


def test_the_sentence_names_the_latency_of_which_nothing_is_found() -> None:
    coarse = latencies(0.2)[0], replace(latencies(0.2)[1], bounds=(0.01, 10.0, math.inf))
    said = describe_reach(find_rounded_power(STEP, coarse), 10.0)
    assert not said.blind
    assert "ttft 4x slower within" in said.message
    assert said.message.endswith(", but no slower tpot, not even 4x")


def running(*given: Latency, rate: float = 11.0, workers: int = 1) -> Reach:
    stable = round_stable(given, 2000)
    stage = freeze_stage("a/1/0-Canary-5000", Policy(), stable, 0.002, 1800, workers)
    return find_rounded_reach(stage, stable, rate, 40.0)


def promised(said: Reach, metric: str) -> list[tuple[str, float]]:
    """(effect, seconds) of each slower latency that is told of."""
    told = re.findall(rf"({metric} [^ ]+) slower within (\d+) (s|min)", said.finds)
    return [(name, float(n) * (60 if unit == "min" else 1)) for name, n, unit in told]


@pytest.mark.parametrize("median", [0.03, 0.06, 0.095, 0.2, 0.6, 1.7])
@pytest.mark.parametrize("bounds", [None, FINE])
def test_of_a_running_step_no_more_is_told_than_its_latencies_allow(
    median: float, bounds: tuple[float, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounded_sizing, "_BESIDE", (1.0,))
    monkeypatch.setattr(rounded_sizing, "_SPREADS", (1.0,))
    given = latencies(median, bounds=bounds)
    exact, said = find(*given), running(*given)
    told = [*promised(said, "ttft"), *promised(said, "tpot")]
    assert told or said.blind
    for name, seconds in told:
        true = exact[name].p95
        assert true is not None, name
        assert true <= 1.1 * seconds + 1, name


def test_of_a_running_step_it_is_told_what_cannot_be_seen() -> None:
    said = running(*latencies(0.2, tpot=0.008))
    assert "ttft 4x slower within" in said.finds
    assert ", but no slower tpot, not even 4x; it is judged by the engine's own" in said.message
    assert "requests that hang are missing" in said.message
    assert not said.blind


def test_a_step_whose_canary_answers_probes_alone_finds_nothing() -> None:
    said = running(*latencies(0.2), rate=1.0)
    assert (said.blind, said.finds) == (True, "")
    assert running(*latencies(0.2), rate=0.0).blind


def test_more_requests_in_the_histogram_than_bounds_is_no_error() -> None:
    """All of stable in one bucket: nothing is known of the next bound."""
    one = latencies(0.2, bounds=(0.001, 100.0, math.inf))
    assert running(*one).blind
