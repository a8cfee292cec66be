"""What the gate says: sentences with numbers, ratios, the band, and what a tick of it costs."""

from __future__ import annotations

import re
from dataclasses import replace
from time import process_time

import numpy as np
import pytest

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.eprocess import StartTimes
from llmrollouts.analysis.evalue import Cell, log_e, log_e_rows
from llmrollouts.analysis.gate import Gate, start_state
from llmrollouts.analysis.histogram import Histogram, compare_quantiles, estimate_quantile
from llmrollouts.analysis.judgement import Outcome
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.wording import (
    format_count,
    format_evidence,
    format_ratio,
    format_span,
    format_time,
)
from tests.analysis.arms import Arms, black_hole, make_stage, run, slower, take


def test_a_rollback_says_what_was_compared_on_how_many_requests_and_how_sure_it_is() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, _ = run(Arms(stage, 42.5, 170.0, slower(2)), 30)
    judgement = gate.judge(state)
    assert judgement.outcome is Outcome.ROLL_BACK
    assert re.fullmatch(
        r"The canary is worse than stable\. Time to first token: [\d,]+ of [\d,]+ canary requests "
        r"took longer than \d+ ms, [\d,]+ of [\d,]+ control requests longer than \d+ ms; "
        r"p\d\d is [\d.]+ times stable's; evidence [\d,]+ \(needs 1,000\)\.",
        judgement.message,
    )
    found = judgement.finding
    assert found is not None
    assert found.evidence >= found.needed
    assert found.p_value <= 1 / found.needed
    assert found.ratios is not None
    assert found.ratios["p50"] == pytest.approx(2.0, rel=0.2)
    assert found.over_canary / found.total_canary > 1.5 * found.over_control / found.total_control


def test_a_canary_that_never_answers_is_said_to_be_at_least_so_slow() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, _ = run(Arms(stage, 42.5, 170.0, black_hole), 30)
    assert "is at least" in gate.judge(state).message


def test_nothing_is_said_of_the_time_per_token_of_answers_that_have_none() -> None:
    stage = make_stage((Metric.TPOT,))
    gate, state, _ = run(Arms(stage, 42.5, 170.0, black_hole), 30)
    found = gate.judge(state).finding
    assert found is not None
    assert found.metric == "tpot"
    assert found.ratios == {}
    assert "stable's;" not in found.message


def test_no_harm_is_said_with_the_number_of_requests() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, _ = run(Arms(stage, 42.5, 170.0), 90)
    judgement = gate.judge(state)
    text = f"No harm was seen in {judgement.canary_requests:,} canary and "
    assert judgement.message.startswith(text)
    assert "shown to be no worse" in judgement.message
    assert {finding.metric for finding in judgement.findings} == {
        "ttft",
        "errors",
        "refusals",
        "connections",
    }
    assert judgement.seconds == 90


def test_the_band_is_reported_and_reaches_its_own_verdict_later() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, _ = run(Arms(stage, 42.5, 170.0, slower(1.6)), 60, stop=False)
    judgement = gate.judge(state)
    by_name = {finding.metric: finding for finding in judgement.findings}
    assert by_name["ttft"].ks_lower > 0
    assert by_name["ttft"].ks > by_name["ttft"].ks_lower
    assert by_name["ks:ttft"].decided is not None
    assert by_name["ttft"].decided is not None
    assert by_name["ks:ttft"].decided > by_name["ttft"].decided
    assert judgement.finding == by_name["ttft"], "the first to decide is the one to report"
    assert "more than chance can do" in by_name["ks:ttft"].message


def test_a_decision_stays_although_its_evidence_melts() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, decided = run(Arms(stage, 42.5, 170.0, slower(3)), 20)
    assert decided is not None
    judgement = gate.judge(replace(state, runs=start_state(stage).runs))
    assert judgement.outcome is Outcome.ROLL_BACK
    assert judgement.finding is not None
    assert judgement.finding.evidence < judgement.finding.needed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0012, "1.2 ms"), (0.105, "105 ms"), (8.24, "8.2 s"), (120.0, "120 s")],
)
def test_times_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_estimates_are_written_with_two_digits() -> None:
    assert [format_count(n) for n in (7, 84, 1_025, 43_821)] == ["7", "84", "1,000", "44,000"]
    assert [format_span(s) for s in (0.2, 40, 720, 18_000)] == ["1 s", "40 s", "12 min", "5 h"]


def test_evidence_is_written_with_two_digits() -> None:
    assert [format_evidence(e) for e in (0.04, 9.96, 14.4, 4138.0, 3e6)] == [
        "0.0",
        "10.0",
        "14",
        "4,100",
        "over 1,000,000",
    ]
    assert [format_ratio(r) for r in (0.984, 1.23, 12.5)] == ["0.98", "1.2", "12.5"]


def test_quantiles_of_reports_lie_inside_their_buckets_and_unanswered_at_the_lag() -> None:
    assert estimate_quantile({}, 0.5, 10.0) is None
    assert estimate_quantile({372: 5}, 0.5, 10.0) == 10.0
    assert compare_quantiles(Histogram({100: 5}, {}), 10.0) is None
    ratios = compare_quantiles(Histogram({110: 50}, {100: 50}), 10.0)
    assert ratios is not None
    assert ratios["p95"] == pytest.approx(1.05**10)


def test_the_weights_of_all_start_times_add_up_to_one_however_long_a_stage_is_held() -> None:
    for late in (0.0, 0.1):
        starts = StartTimes(50, 0.5, late)
        spent = 0.5
        for tick in range(1, 400):
            spent += starts.fresh(tick)
            assert spent + starts.unspent(tick) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(ValueError, match="start times"):
        StartTimes(0)


def test_the_bets_of_a_second_pay_together_what_they_pay_one_by_one() -> None:
    rng = np.random.default_rng(5)
    cells = [Cell(0, 0, 3, 9), Cell(0, 4, 0, 9)]
    for _ in range(60):
        ours, theirs = (int(n) for n in rng.integers(0, 60, 2))
        cells.append(
            Cell(int(rng.integers(0, ours + 1)), ours, int(rng.integers(0, theirs + 1)), theirs)
        )
    bets = [tuple(np.log(rng.uniform(0.2, 30, int(rng.integers(1, 6)))).tolist()) for _ in cells]
    rows = log_e_rows(cells, bets)
    for cell, logs, row in zip(cells, bets, rows, strict=True):
        assert row == pytest.approx(log_e(cell, np.array(logs)).tolist(), abs=1e-9)


def test_a_tick_of_one_rollout_costs_less_than_two_milliseconds() -> None:
    """Of processor time, with every stream, at 850 requests a second; the median of many."""
    policy = Policy(limits={Metric.TTFT: 0.35, Metric.DURATION: 40.0}, error_limit=0.05)
    stage = make_stage(policy=policy)
    arms = Arms(stage, 170.0, 680.0)
    seconds = [list(arms.second(second)) for second in range(40)]
    gate, state, costs = Gate(stage), start_state(stage), []
    for parts in seconds:
        begun = process_time()
        for part in parts:
            state = take(gate, state, part)
        costs.append(process_time() - begun)
    assert sorted(costs)[len(costs) // 2] < 0.002, costs
