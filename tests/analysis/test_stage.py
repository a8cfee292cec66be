"""What is frozen when a stage starts: thresholds, ages, exact values, levels."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.analysis.counts import Counts, Metric, Outcomes, OutcomeSecond, Stream
from llmrollouts.analysis.gate import Gate, start_state
from llmrollouts.analysis.grid import BOUNDS, BUCKETS, bucket_of
from llmrollouts.analysis.policy import LONGEST_LAG, Policy
from llmrollouts.analysis.stage import (
    MIN_BASELINE,
    Baseline,
    Stage,
    baseline_measurement,
    choose_reference,
    freeze_stage,
)
from llmrollouts.analysis.thresholds import limit_lag
from tests.analysis.arms import make_baseline, make_stage

LIMITS = {Metric.TTFT: 0.35, Metric.TPOT: 0.2, Metric.DURATION: 40.0}


def _histogram(**seconds: int) -> tuple[int, ...]:
    """Requests by latency: ``_histogram(**{"0.1": 500})``."""
    counts = [0] * (BUCKETS + 1)
    for text, number in seconds.items():
        counts[bucket_of(float(text))] += number
    return tuple(counts)


def test_thresholds_are_stable_quantiles_and_the_canary_is_a_margin_above() -> None:
    stage = make_stage(policy=Policy(margin=1.10))
    places = stage.thresholds[Metric.TTFT]
    assert [b - a for a, b in zip(places.control_bounds, places.canary_bounds, strict=True)] == (
        [2] * 5
    )
    assert BOUNDS[places.control_bounds[0]] == pytest.approx(0.095, rel=0.08)
    assert BOUNDS[places.control_bounds[3]] == pytest.approx(0.304, rel=0.12)


@pytest.mark.parametrize(("workers", "margin"), [(1, 1.10), (2, 1.05), (8, 1.05)])
def test_a_single_canary_worker_gets_a_wider_margin(workers: int, margin: float) -> None:
    assert make_stage(canary_workers=workers).margin == margin


def test_every_threshold_is_known_at_the_age_at_which_it_is_read() -> None:
    stage = make_stage(policy=Policy(limits=LIMITS))
    factor = stage.policy.promotion_margin
    for metric, places in stage.thresholds.items():
        for bound, lag in zip(places.canary_bounds, places.lags, strict=True):
            assert BOUNDS[bound] <= lag
            assert lag in stage.measurement.lags[metric]
        for x, lag in zip(places.promotion, places.proof_lags, strict=True):
            assert factor * x <= lag
            assert lag in stage.measurement.lags[metric]
            assert {x, factor * x} <= set(stage.measurement.exact[metric])
    for metric, limit in LIMITS.items():
        assert any(lag >= limit for lag in stage.measurement.lags[metric])
        assert limit in stage.measurement.exact[metric]


def test_one_age_for_first_tokens_and_one_for_each_threshold_of_the_whole_answer() -> None:
    stage = make_stage()
    assert len(stage.measurement.lags[Metric.TTFT]) == 1
    assert len(stage.measurement.lags[Metric.TPOT]) == 1
    assert len(stage.measurement.lags[Metric.E2E]) >= 4


def _freeze(seconds: dict[str, str], *, whole_ages: bool = False) -> Stage:
    """By the usual latency and the tail of each metric: ``{"ttft": "0.09 0.2"}``."""
    latency = {}
    for name, text in seconds.items():
        usual, tail = text.split()
        both = zip(_histogram(**{usual: 980}), _histogram(**{tail: 20}), strict=True)
        latency[Metric(name)] = tuple(map(sum, both))
    return freeze_stage("s", Policy(), Baseline(latency), 0.001, 600, 4, whole_ages=whole_ages)


@pytest.mark.parametrize(
    ("seconds", "first", "failures"),
    [
        ({"ttft": "0.09 0.2", "e2e": "0.3 0.4"}, 0.5, 0.5),
        ({"ttft": "0.09 0.2", "e2e": "0.6 0.7"}, 0.75, 0.75),  # not 0.5 and 1.5
        ({"ttft": "0.09 0.2", "e2e": "0.9 1.2"}, 1.0, 1.0),
        ({"ttft": "0.09 0.2", "e2e": "8 20"}, 0.5, 1.5),
        ({"ttft": "0.09 0.7", "e2e": "8 20"}, 1.0, 2.0),  # 1.25 times 0.7 must be known
        ({"ttft": "0.09 0.2"}, 0.5, 1.5),
        ({"e2e": "0.3 0.35"}, 0.5, 0.5),
    ],
)
def test_a_fast_engine_is_judged_sooner(
    seconds: dict[str, str], first: float, failures: float
) -> None:
    stage = _freeze(seconds)
    metric = Metric.TTFT if "ttft" in seconds else Metric.E2E
    assert stage.measurement.lags[metric][0] == first
    assert stage.measurement.outcome_lags == (failures, 30.0)


@given(first=st.floats(0.005, 5.0), longer=st.floats(1.0, 40.0), tail=st.floats(1.0, 4.0))
def test_all_ages_of_a_stage_but_the_latest_are_complete_at_one_part_of_a_second(
    first: float, longer: float, tail: float
) -> None:
    whole = first * longer
    stage = _freeze({"ttft": f"{first} {first * tail}", "e2e": f"{whole} {whole * tail}"})
    lags = [lag for each in stage.measurement.lags.values() for lag in each]
    assert len({lag % 1 for lag in (*lags, stage.quick_lag)}) == 1
    assert stage.quick_lag <= 2.0
    assert max(lags) <= LONGEST_LAG


def test_where_only_whole_seconds_are_known_all_ages_are_whole() -> None:
    stage = _freeze({"ttft": "0.09 0.2", "tpot": "0.01 0.02", "e2e": "0.3 0.4"}, whole_ages=True)
    lags = [lag for each in stage.measurement.lags.values() for lag in each]
    assert all(lag == int(lag) for lag in (*lags, *stage.measurement.outcome_lags))
    assert stage.measurement.lags[Metric.TTFT] == (1.0,)


def test_a_stage_of_an_older_operator_is_judged_at_the_ages_it_was_frozen_with() -> None:
    raw = json.loads(_freeze({"ttft": "0.09 0.2"}, whole_ages=True).to_json())
    raw["outcomeLags"] = [2.0, 30.0]
    stage = Stage.from_json(json.dumps(raw))
    state = start_state(stage)
    assert {"errors:2", "errors:30"} <= set(state.runs)
    failing = OutcomeSecond(2.0, 1, Outcomes(9, 9), Outcomes(9))
    assert Gate(stage).take_outcomes(state, failing).runs["errors:2"].log_e > 0.5


def test_the_limit_of_a_stage_of_an_older_operator_is_read_where_it_was() -> None:
    for metric, limit, lag in (
        (Metric.TTFT, 0.35, 1.0),
        (Metric.TTFT, 1.0, 1.0),
        (Metric.TPOT, 0.2, 2.0),
        (Metric.DURATION, 0.4, 1.0),
        (Metric.DURATION, 40.0, 40.0),
    ):
        assert limit_lag(metric, limit, {}) == lag


def test_a_far_tail_does_not_make_every_verdict_wait_for_it() -> None:
    counts = _histogram(**{"0.1": 9_800, "25": 200})
    stage = freeze_stage("s", Policy(), Baseline({Metric.TTFT: counts}), 0.001, 600, 4)
    assert stage.measurement.lags[Metric.TTFT] == (9.5,)


def test_slow_services_are_read_late_enough_to_see_their_usual_latency() -> None:
    counts = _histogram(**{"9": 900, "12": 100})
    stage = freeze_stage("s", Policy(), Baseline({Metric.TTFT: counts}), 0.001, 600, 4)
    places = stage.thresholds[Metric.TTFT]
    assert BOUNDS[places.control_bounds[2]] >= 12
    assert stage.measurement.lags[Metric.TTFT][0] <= 30


def test_what_is_not_answered_at_the_longest_age_clips_the_thresholds() -> None:
    baseline = Baseline()
    stream = Stream(Metric.E2E, 120.0)
    baseline = baseline.add(stream, Counts({bucket_of(100.0): 100}, {}, over=200))
    places = freeze_stage("s", Policy(), baseline, 0.001, 600, 4).thresholds[Metric.E2E]
    assert 110.0 <= max(places.lags) <= 120.0
    assert all(BOUNDS[bound] <= 120.0 for bound in places.canary_bounds)
    assert all(1.25 * x <= 120.0 for x in places.promotion)


def test_a_small_baseline_is_refused_and_says_how_many_are_needed() -> None:
    baseline = make_baseline(requests=MIN_BASELINE - 1)
    with pytest.raises(ValueError, match=r"199 requests of stable were seen; 200 are needed"):
        freeze_stage("s", Policy(), baseline, 0.001, 600, 1)


def test_a_metric_that_stable_hardly_has_is_not_compared() -> None:
    baseline = Baseline(
        {Metric.TTFT: _histogram(**{"0.1": 19}), Metric.E2E: _histogram(**{"4": 300})}
    )
    stage = freeze_stage("s", Policy(), baseline, 0.001, 600, 1)
    assert set(stage.thresholds) == {Metric.E2E}
    assert set(Gate(stage).levels) == {"e2e", "ks:e2e", "errors", "refusals", "connections"}


def test_without_a_baseline_failures_and_limits_alone_are_judged() -> None:
    stage = freeze_stage("s", Policy(limits=LIMITS), None, 0.001, 600, 1)
    assert not stage.thresholds
    assert set(stage.measurement.lags) == set(LIMITS)
    assert {"errors", "ttftP99", "e2eP99"} <= set(Gate(stage).levels)


def test_the_levels_of_all_metrics_add_up_to_the_stage_and_no_more() -> None:
    stage = make_stage(policy=Policy(limits=LIMITS, error_limit=0.01), level=0.002)
    levels = Gate(stage).levels
    assert sum(levels.values()) == pytest.approx(0.002)
    assert {"ks:ttft", "tpotP99", "errorRate"} <= set(levels)


@pytest.mark.parametrize("metric", ["ttft", "e2e", "errors", "refusals", "connections"])
def test_the_tests_of_one_metric_share_its_level_and_no_more(metric: str) -> None:
    runs = start_state(make_stage()).runs
    weights = [math.exp(run.log_e) for name, run in runs.items() if name.split(":")[0] == metric]
    assert sum(weights) == pytest.approx(1.0)


def test_a_stage_survives_json_exactly() -> None:
    stage = make_stage(policy=Policy(limits=LIMITS, error_limit=0.02, margin=1.07))
    again = Stage.from_json(stage.to_json())
    assert again == stage
    assert again.to_json() == stage.to_json()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw.pop("level"),
        lambda raw: raw.update(level=0.0),
        lambda raw: raw.update(ticks=0),
        lambda raw: raw.update(margin=0.9),
        lambda raw: raw.update(thresholds=[1]),
        lambda raw: raw["thresholds"]["ttft"]["control_bounds"].reverse(),
        lambda raw: raw["thresholds"]["ttft"]["lags"].pop(),
        lambda raw: raw["policy"].update(margin=0.5),
        lambda raw: raw.update(referenceTokens=63),
    ],
)
def test_a_damaged_stage_is_refused(damage: object) -> None:
    raw = json.loads(make_stage().to_json())
    assert callable(damage)
    damage(raw)
    with pytest.raises(ValueError, match="no stored stage"):
        Stage.from_json(json.dumps(raw))


def test_a_stage_without_any_budget_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="retry"):
        make_stage(level=0.0)


def test_a_baseline_adds_up_and_survives_json() -> None:
    stream = Stream(Metric.TTFT, 10.0)
    baseline = Baseline(reference_tokens=128)
    for _ in range(3):
        baseline = baseline.add(stream, Counts({5: 2, 9: 1}, {7: 4}, over=1))
    baseline = baseline.add_tokens({3: 4, 6: 2})
    assert baseline.requests == 12, "whose client left says nothing of stable"
    assert baseline.latency[Metric.TTFT][bucket_of(10.0) + 1] == 3
    assert Baseline.from_json(baseline.to_json()) == baseline


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"latency": {"ttft": {"999": 1}}, "tokens": [], "referenceTokens": 64}'],
)
def test_what_is_no_baseline_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no stored baseline"):
        Baseline.from_json(text)


@pytest.mark.parametrize(
    ("tokens", "reference"),
    [((), 64), ((0, 0, 0, 5), 64), ((0, 0, 100), 4), ((0,) * 7 + (60, 40), 128)],
)
def test_the_reference_length_is_one_that_half_of_the_answers_reach(
    tokens: tuple[int, ...], reference: int
) -> None:
    assert choose_reference(tokens) == reference
    assert baseline_measurement(reference).reference_tokens == reference


@given(
    done=st.dictionaries(st.integers(0, BUCKETS), st.integers(0, 9), max_size=12),
    left=st.dictionaries(st.integers(0, BUCKETS), st.integers(0, 9), max_size=6),
    over=st.integers(0, 9),
    bounds=st.lists(st.integers(0, BUCKETS - 1), min_size=1, max_size=5).map(sorted),
)
def test_counting_all_bounds_at_once_is_counting_each(
    done: dict[int, int], left: dict[int, int], over: int, bounds: list[int]
) -> None:
    counts = Counts(done, left, over)
    assert counts.tally(bounds) == [counts.exceeding(bound) for bound in bounds]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"margin": 0.95}, "negative"),
        ({"limits": {Metric.TTFT: 0.00005}}, "smallest latency"),
        ({"limits": {Metric.TTFT: float("nan")}}, "smallest latency"),
        ({"limits": {Metric.DURATION: 121.0}}, "no longer"),
        ({"limits": {Metric.TTFT: 9.0, Metric.DURATION: 5.0}}, "no answer ends before it begins"),
        ({"limits": {Metric.E2E: 5.0}}, "whole duration"),
        ({"margin": 1.3, "promotion_margin": 1.2}, "promotionMargin lies above margin"),
        ({"error_limit": 0.7}, "errorRate"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused_in_plain_words(
    policy: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Policy(**policy)  # type: ignore[arg-type]  # wrong on purpose
