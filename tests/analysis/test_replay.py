"""The gate over recorded requests: every verdict, and what the records are counted as."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from llmrollouts.analysis.counts import Counts, Metric, Outcomes, Stream
from llmrollouts.analysis.gate import Gate, GateState
from llmrollouts.analysis.grid import bucket_of
from llmrollouts.analysis.judgement import Outcome
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.replay import Replay, TraceError, Verdict, replay
from llmrollouts.analysis.trace import OutcomeTally, Tally, Trace, count_tokens
from tests.analysis.traces import make_trace

NONE = math.nan


def judge(trace: Trace, policy: Policy | None = None, **more: int) -> Replay:
    return replay(trace, policy or Policy(), level=0.005, ticks=1800, canary_workers=1, **more)


def test_a_slower_canary_is_rolled_back_within_seconds() -> None:
    found = judge(make_trace(slow=2.0))
    assert found.verdict is Verdict.ROLLED_BACK
    assert found.decided_at is not None
    assert 36 <= found.decided_at <= 60
    finding = found.judgement.finding
    assert finding is not None
    assert finding.metric in {"ttft", "tpot", "e2e"}
    assert finding.decided == math.ceil(found.decided_at)


def test_a_regression_that_begins_later_is_found_after_it_began() -> None:
    found = judge(make_trace(slow=3.0, onset=150))
    assert found.verdict is Verdict.ROLLED_BACK
    assert found.decided_at is not None
    assert 155 <= found.decided_at <= 175
    assert found.judgement.first_seen is not None
    assert found.judgement.first_seen >= 140


def test_an_equal_canary_is_promotable_from_when_it_was_proven() -> None:
    found = judge(make_trace(rate=200, share=0.3, seconds=300))
    assert found.verdict is Verdict.PROMOTABLE
    assert found.decided_at is not None
    assert found.decided_at < 250
    assert found.judgement.proven


def test_too_few_requests_prove_nothing() -> None:
    found = judge(make_trace(seconds=60, share=0.02))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.decided_at is None
    assert found.judgement.finding is None


def test_nothing_is_promotable_below_the_least_number_of_requests() -> None:
    trace = make_trace(rate=200, share=0.3, seconds=300)
    assert judge(trace, min_requests=1_000_000).verdict is Verdict.INCONCLUSIVE


def test_failures_hangs_and_empty_answers_roll_back() -> None:
    failing = judge(make_trace(failing=0.3)).judgement.finding
    assert failing is not None
    assert failing.metric == "errors"
    assert judge(make_trace(hangs=True)).verdict is Verdict.ROLLED_BACK
    empty = make_trace()
    nothing = np.where(empty.canary, np.nan, empty.ttft)
    tokens = np.where(empty.canary, 0, empty.tokens)
    hollow = Trace(
        empty.arrival, empty.canary, nothing, empty.tpot, empty.e2e, tokens, empty.status, empty.end
    )
    assert judge(hollow).verdict is Verdict.ROLLED_BACK


def test_a_limit_that_both_break_freezes() -> None:
    policy = Policy(limits={Metric.TTFT: 0.35})
    found = judge(make_trace(share=0.3, both=3.0, onset=60), policy)
    assert found.verdict is Verdict.FROZEN
    assert found.judgement.outcome is Outcome.FREEZE
    assert found.decided_at is not None
    assert found.decided_at >= 60


def test_a_faster_canary_is_never_rolled_back() -> None:
    assert judge(make_trace(slow=0.5)).verdict is Verdict.PROMOTABLE


def test_stalls_of_single_workers_roll_nothing_back_where_the_trace_tells_them_apart() -> None:
    trace = make_trace(rate=60, share=0.3, workers=4, stalls=True)
    assert judge(trace).verdict is not Verdict.ROLLED_BACK
    assert judge(replace(trace, worker=None)).verdict is Verdict.ROLLED_BACK


def test_a_slower_canary_of_several_workers_is_rolled_back_as_soon_as_one_of_unknown_workers() -> (
    None
):
    trace = make_trace(rate=60, share=0.3, slow=1.3, workers=4)
    told, untold = judge(trace), judge(replace(trace, worker=None))
    assert told.verdict is untold.verdict is Verdict.ROLLED_BACK
    assert told.decided_at == untold.decided_at


def test_baseline_is_what_came_before_the_first_canary_request() -> None:
    found = judge(make_trace(lead=30))
    assert found.compared_from == 30
    assert found.skipped == 0
    assert found.baseline > 2_000


def test_mixed_traffic_gives_its_first_seconds_to_the_baseline() -> None:
    found = judge(make_trace(lead=0))
    assert found.compared_from <= 11
    assert found.skipped > 0
    assert found.baseline >= 200


def test_traces_that_cannot_be_judged_say_why() -> None:
    alone = make_trace(share=0.0)
    with pytest.raises(TraceError, match="no request of the canary"):
        judge(alone)
    with pytest.raises(TraceError, match="200 are needed"):
        judge(make_trace(rate=2, seconds=50, lead=0))
    end = make_trace(rate=100, seconds=10, lead=0)
    with pytest.raises(TraceError, match="too short"):
        judge(end.part(slice(0, 250)))


def test_a_long_pause_is_left_out_and_a_short_one_is_not() -> None:
    trace = make_trace(slow=2.0)
    paused = np.where(trace.arrival >= 32, trace.arrival + 1e6, trace.arrival)
    shifted = Trace(
        paused, trace.canary, trace.ttft, trace.tpot, trace.e2e, trace.tokens, trace.status,
        trace.end + 1e6,
    )  # fmt: skip
    found = judge(shifted)
    assert found.verdict is Verdict.ROLLED_BACK
    assert found.judgement.seconds < 60


def test_the_state_survives_json_in_mid_replay() -> None:
    found = judge(make_trace(seconds=120))
    again = GateState.from_json(found.state.to_json())
    assert Gate(found.stage).judge(again) == Gate(found.stage).judge(found.state)


def rows(*records: tuple[float, float, float, int, int], canary: bool = True) -> Trace:
    """ttft, tpot, e2e, tokens, status; all arrive in second 5 of a trace that ends at 100."""
    columns = [np.array(column, dtype=float) for column in zip(*records, strict=True)]
    return Trace(
        np.full(len(records), 5.5), np.full(len(records), canary), columns[0], columns[1],
        columns[2], columns[3].astype(np.int64), columns[4].astype(np.int64), 100.0,
    )  # fmt: skip


def tally(trace: Trace, metric: Metric, lag: float, reference: int = 4) -> Counts:
    return Tally(trace, Stream(metric, lag), (), reference).canary(5)


def test_first_tokens_are_counted_as_a_tap_would() -> None:
    trace = rows(
        (0.2, 0.1, 1.1, 10, 200),  # streamed
        (3.0, 0.1, 4.0, 10, 200),  # too late for the lag
        (NONE, NONE, NONE, 0, 0),  # never answered
        (NONE, NONE, 1.0, 10, 200),  # not streamed: no first token to time
        (0.1, 0.1, 0.5, 5, 500),  # failed
        (NONE, NONE, 0.1, 0, 404),  # refused
        (NONE, NONE, 0.7, 0, 499),  # its client left unanswered
        (0.3, 0.1, 0.7, 4, 499),  # its client left after the first token
        (NONE, NONE, 0.4, 0, 200),  # an answer with nothing in it
    )
    counts = tally(trace, Metric.TTFT, 2.0)
    assert counts.done == {bucket_of(0.2): 1, bucket_of(0.3): 1}
    assert counts.left == {bucket_of(0.7): 1}
    assert counts.over == 4


def test_time_per_token_needs_two_tokens() -> None:
    trace = rows(
        (0.2, 0.1, 1.1, 10, 200),
        (0.2, NONE, 0.8, 4, 200),  # derived: 0.2 s a token
        (0.2, NONE, 0.2, 1, 200),  # one token says nothing
        (0.2, NONE, NONE, 3, 0),  # still running: at least (12 - 0.2) / 3
        (NONE, NONE, NONE, 0, 0),
    )
    counts = tally(trace, Metric.TPOT, 12.0)
    assert counts.done == {
        bucket_of(0.1): 1, bucket_of((0.8 - 0.2) / 3): 1, bucket_of(11.8 / 3): 1,
    }  # fmt: skip
    assert counts.over == 1


def test_end_to_end_is_compared_at_equal_length() -> None:
    trace = rows(
        (0.2, 0.1, 1.1, 10, 200),  # reaches token 4 at 0.5 s
        (0.2, 0.1, 0.3, 2, 200),  # shorter: at its own rate, also 0.5 s
        (NONE, NONE, 1.0, 8, 200),  # not streamed: 4 of 8 tokens in half the time
        (0.2, NONE, 0.2, 1, 200),  # one token: no rate
        (0.2, 0.1, 0.3, 2, 499),  # left before token 4
        (NONE, NONE, NONE, 0, 0),
    )
    counts = tally(trace, Metric.E2E, 4.0)
    assert counts.done == {bucket_of(0.5): 3}
    assert counts.left == {bucket_of(0.3): 1}
    assert counts.over == 1


def test_durations_are_raw() -> None:
    trace = rows((0.2, 0.1, 1.1, 10, 200), (0.2, 0.1, 9.0, 90, 200), (0.2, NONE, NONE, 3, 0))
    counts = tally(trace, Metric.DURATION, 4.0)
    assert counts.done == {bucket_of(1.1): 1}
    assert counts.over == 2


def test_outcomes_are_known_when_the_request_has_ended() -> None:
    trace = rows(
        (0.2, 0.1, 1.1, 10, 200),
        (NONE, NONE, 1.0, 0, 503),
        (NONE, NONE, 20.0, 0, 504),  # known at 20 s only
        (NONE, NONE, 0.1, 0, 429),
        (NONE, NONE, 0.1, 0, 499),  # its client left unanswered: no request to judge
        (NONE, NONE, 0.1, 0, 200),  # empty
        (NONE, NONE, NONE, 0, 0),
    )
    assert OutcomeTally(trace, 2.0).canary(5) == Outcomes(6, 2, 1)
    assert OutcomeTally(trace, 30.0).canary(5) == Outcomes(6, 3, 1)
    assert OutcomeTally(trace, 30.0).control(5) == Outcomes()
    assert OutcomeTally(trace, 30.0).canary(6) == Outcomes()


def test_exact_values_are_counted_beside_the_buckets() -> None:
    trace = rows((0.34, 0.1, 1.1, 10, 200), (0.36, 0.1, 1.1, 10, 200), (NONE, NONE, 0.1, 0, 499))
    counts = Tally(trace, Stream(Metric.TTFT, 2.0), (0.35, 0.05), 4).canary(5)
    # Who left after 0.1 s exceeded 0.05 s, and says nothing of 0.35 s.
    assert counts.beyond == ((1, 2), (3, 3))


def test_lengths_of_answers_are_counted_in_powers_of_two() -> None:
    trace = rows((0.2, 0.1, 1.1, 10, 200), (0.2, 0.1, 1.1, 16, 200), (0.2, 0.1, 1.1, 8, 500))
    assert count_tokens(trace) == {3: 1, 4: 1}
