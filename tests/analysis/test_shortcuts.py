"""What makes a quiet second cheap changes no number: to the last bit."""

from __future__ import annotations

import random

import pytest

from llmrollouts.analysis.counts import Counts, LatencySecond, Metric, OutcomeSecond, Stream
from llmrollouts.analysis.eprocess import LATENCY_BETS, EProcess
from llmrollouts.analysis.evalue import Cell, log_e_rows
from llmrollouts.analysis.gate import Gate, start_state
from llmrollouts.analysis.histogram import Histogram, Ranks
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.replay import replay
from llmrollouts.analysis.trace import OutcomeTally, Tally, Trace
from tests.analysis.traces import make_trace

POLICY = Policy(limits={Metric.TTFT: 0.35}, error_limit=0.01)
WIDE = Cell(40, 90, 200, 400)
BETS = EProcess(LATENCY_BETS, 600).groups[0][2]


def test_few_requests_pay_the_same_alone_as_beside_others() -> None:
    rng = random.Random(1)
    for _ in range(300):
        total = rng.randint(0, 6)
        cell = Cell(rng.randint(0, total), total, rng.randint(0, 60), 60)
        few = Cell(rng.randint(0, 3), 3, rng.randint(0, 9), 9)
        assert list(log_e_rows([cell], [BETS])[0]) == list(log_e_rows([few, cell], [BETS] * 2)[1])
        beside_many = list(log_e_rows([WIDE, cell], [BETS] * 2)[1])
        assert beside_many == pytest.approx(list(log_e_rows([cell], [BETS])[0]), abs=1e-12)


def test_cells_counted_for_all_seconds_are_those_of_the_counts() -> None:
    trace = make_trace(rate=20, seconds=120, hangs=True, onset=60)
    bounds = ((95, 101, 120, 130, 150), (93, 99, 118, 128, 148))
    tally = Tally(trace, Stream(Metric.TTFT, 1.0), (0.1,), 1, bounds)
    for second in range(-1, 122):
        known = LatencySecond(
            tally.stream, second, tally.canary(second), tally.control(second), tally.cells(second)
        )
        assert list(known.compare(*bounds)) == list(known._replace(cells=None).compare(*bounds))


def test_who_left_says_nothing_of_the_bounds_beyond() -> None:
    trace = make_trace(rate=20, seconds=60)
    left = trace.arrival % 1 < 0.3
    status, ttft = trace.status.copy(), trace.ttft.copy()
    status[left], ttft[left] = 499, float("nan")
    mixed = Trace(
        trace.arrival, trace.canary, ttft, trace.tpot, trace.e2e, trace.tokens, status, trace.end
    )
    bounds = ((95, 110, 130), (95, 110, 130))
    tally = Tally(mixed, Stream(Metric.TTFT, 1.0), (), 1, bounds)
    assert tally.control_sum().left
    for second in range(60):
        counts = tally.control(second)
        assert [(c.stable_over, c.stable_total) for c in tally.cells(second)] == counts.tally(
            bounds[1]
        )


def test_seconds_taken_at_once_leave_the_state_of_seconds_taken_one_by_one() -> None:
    trace = make_trace(rate=30, seconds=90, failing=0.05)
    stage = replay(trace, POLICY, level=0.005, ticks=600, canary_workers=1).stage
    gate, measured = Gate(stage), stage.measurement
    tallies = [
        Tally(trace, stream, measured.exact[stream.metric], measured.reference_tokens)
        for stream in stage.streams
    ]
    ends = OutcomeTally(trace, stage.quick_lag)
    one_by_one = at_once = start_state(stage)
    for second in range(30, 80):
        together: list[LatencySecond | OutcomeSecond] = [
            LatencySecond(each.stream, second, each.canary(second), each.control(second))
            for each in tallies
        ]
        failures = ends.canary(second), ends.control(second)
        together.append(OutcomeSecond(stage.quick_lag, second, *failures))
        for each in together:
            if isinstance(each, LatencySecond):
                one_by_one = gate.take_latency(one_by_one, each)
            else:
                one_by_one = gate.take_outcomes(one_by_one, each)
        at_once = gate.take(at_once, [*together, together[0]])
        assert at_once.stale == second - 29
    assert at_once.to_json().replace('"stale":50', '"stale":0') == one_by_one.to_json()


@pytest.mark.parametrize("slow", [1.0, 2.0])
def test_the_standing_is_what_the_judgement_says(slow: float) -> None:
    found = replay(
        make_trace(rate=200, share=0.3, slow=slow), POLICY, level=0.005, ticks=600, canary_workers=1
    )
    gate = Gate(found.stage)
    standing, judgement = gate.standing(found.state), gate.judge(found.state)
    assert standing.outcome is judgement.outcome
    assert standing.proven is judgement.proven
    assert standing.canary_requests == judgement.canary_requests


def test_ranks_find_the_bucket_of_a_quantile() -> None:
    drawn = Histogram().add(Counts(), Counts({7: 5, 3: 4}, over=1)).add(Counts(), Counts({5: 10}))
    assert list(drawn.control) == sorted(drawn.control)
    ranks = drawn.rank_control()
    assert ranks.requests == 20
    assert [ranks.bucket_at(q) for q in (0.2, 0.21, 0.7, 0.71, 0.95)] == [3, 5, 5, 7, 7]
    assert ranks.bucket_at(0.96) == max(drawn.control)
    assert Ranks({}).requests == 0
