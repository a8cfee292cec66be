"""The gate's memory: restarts in mid-stage, repeated and missing seconds, size."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrollouts.analysis.counts import (
    Counts,
    LatencySecond,
    Metric,
    Outcomes,
    OutcomeSecond,
    Stream,
)
from llmrollouts.analysis.gate import Gate, GateState, start_state
from llmrollouts.analysis.ledger import MOST_POINTS, History
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.stage import Stage
from tests.analysis.arms import Arms, make_stage, run, slower, take

POLICY = Policy(limits={Metric.TTFT: 0.35, Metric.DURATION: 40.0}, error_limit=0.05)


def test_a_restart_in_mid_stage_changes_nothing_bit_for_bit() -> None:
    stage = make_stage(policy=POLICY)
    arms = Arms(stage, 8.0, 32.0, slower(1.2), failing=(0.02, 0.01))
    seconds = [list(arms.second(second)) for second in range(40)]
    gate, straight = Gate(stage), start_state(stage)
    for parts in seconds:
        for part in parts:
            straight = take(gate, straight, part)
    state = start_state(stage)
    for number, parts in enumerate(seconds):
        for part in parts:
            state = take(gate, state, part)
        if number % 10 == 7:
            gate = Gate(Stage.from_json(stage.to_json()))
            state = GateState.from_json(state.to_json())
    assert state == straight
    assert state.to_json() == straight.to_json()
    assert gate.judge(state) == gate.judge(straight)


def test_a_second_that_comes_twice_or_too_late_is_ignored_and_counted() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state = Gate(stage), start_state(stage)
    arms = Arms(stage, 20.0, 80.0)
    first, second, third = (list(arms.second(number)) for number in range(3))
    for part in (*first, *third):
        state = take(gate, state, part)
    after = state
    for part in (*third, *second, *first):
        after = take(gate, after, part)
    assert after.stale == len(first) + len(second) + len(third)
    assert replace(after, stale=0) == state


def test_streams_have_clocks_of_their_own() -> None:
    stage = make_stage((Metric.E2E,))
    gate, state = Gate(stage), start_state(stage)
    late, early = stage.measurement.lags[Metric.E2E][-1], stage.measurement.lags[Metric.E2E][0]
    empty = Counts()
    state = gate.take_latency(state, LatencySecond(Stream(Metric.E2E, early), 9, empty, empty))
    state = gate.take_latency(state, LatencySecond(Stream(Metric.E2E, late), 3, empty, empty))
    assert state.stale == 0
    assert state.taken == {f"e2e@{early:g}": 9, f"e2e@{late:g}": 3}


def test_a_missing_second_is_not_taken_and_costs_nothing_else() -> None:
    stage = make_stage((Metric.TTFT,))
    arms = Arms(stage, 42.5, 170.0, slower(2))
    gate, state = Gate(stage), start_state(stage)
    for second in range(40):
        for part in arms.second(second):
            if second % 3:
                state = take(gate, state, part)
    assert state.decided
    assert state.runs["ttft"].wealth.ticks == 26


def test_an_empty_second_is_time_that_passed() -> None:
    stage = make_stage((Metric.TTFT,), ticks=100)
    gate, state = Gate(stage), start_state(stage)
    stream = stage.streams[0]
    for second in range(50):
        state = gate.take_latency(state, LatencySecond(stream, second, Counts(), Counts()))
    assert state.runs["ttft"].wealth.ticks == 50
    assert gate.judge(state).findings[0].evidence == pytest.approx(1.0)


def test_what_does_not_belong_to_the_stage_is_refused() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state = Gate(stage), start_state(stage)
    stranger = LatencySecond(Stream(Metric.TTFT, 7.0), 0, Counts(), Counts())
    with pytest.raises(ValueError, match="does not read"):
        gate.take_latency(state, stranger)
    with pytest.raises(ValueError, match="reads no ends"):
        gate.take_outcomes(state, OutcomeSecond(9.0, 0, Outcomes(), Outcomes()))
    other = replace(state, stage="another")
    with pytest.raises(ValueError, match="no state of"):
        gate.judge(other)
    with pytest.raises(ValueError, match="no state of"):
        gate.take_latency(other, LatencySecond(stage.streams[0], 0, Counts(), Counts()))


_BUCKETS = st.dictionaries(st.integers(0, 372), st.integers(0, 50), max_size=6)
_COUNTS = st.builds(Counts, _BUCKETS, _BUCKETS, st.integers(0, 50))
_OUTCOMES = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)).map(
    lambda parts: Outcomes(sum(parts), parts[0], parts[1])
)


@settings(max_examples=40)
@given(
    ticks=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 30), _COUNTS, _COUNTS, _OUTCOMES, _OUTCOMES),
        max_size=12,
    )
)
def test_whatever_is_counted_the_state_is_sound_and_survives_json(
    ticks: list[tuple[int, int, Counts, Counts, Outcomes, Outcomes]],
) -> None:
    """Without exact counts, as from an image without the tap."""
    stage = make_stage(policy=POLICY)
    gate, state = Gate(stage), start_state(stage)
    lags = (0.0, *stage.measurement.outcome_lags)
    for second, number, canary, control, ours, theirs in ticks:
        stream = stage.streams[number % len(stage.streams)]
        state = gate.take_latency(state, LatencySecond(stream, second, canary, control))
        state = gate.take_outcomes(
            state, OutcomeSecond(lags[number % len(lags)], second, ours, theirs)
        )
    judgement = gate.judge(state)
    assert all(finding.evidence >= 0 for finding in judgement.findings)
    assert all(0 <= finding.p_value <= 1 for finding in judgement.findings)
    assert judgement.message.endswith(".")
    again = GateState.from_json(state.to_json())
    assert again == state
    assert gate.judge(again) == judgement


def test_the_state_stays_small_over_a_long_stage() -> None:
    stage = make_stage(policy=POLICY, ticks=1500)
    _, state, _ = run(Arms(stage, 3.0, 12.0, failing=(0.01, 0.01)), 400, stop=False)
    wide = {
        name: replace(
            both,
            canary=dict.fromkeys(range(373), 12_345),
            control=dict.fromkeys(range(373), 123_456),
        )
        for name, both in state.histograms.items()
    }
    assert all(0 < len(line.points) <= MOST_POINTS for line in state.history.values())
    assert len(replace(state, histograms=wide).to_json()) < 100_000
    assert len(state.to_json()) < 50_000


def test_a_history_keeps_the_whole_stage_in_few_points() -> None:
    line = History()
    for second in range(10_000):
        line = line.add(second, -1.0)
    assert len(line.points) <= MOST_POINTS
    seconds = [second for second, _ in line.points]
    assert seconds == sorted(seconds)
    assert seconds[0] < 200
    assert seconds[-1] > 9_800
    gaps = {b - a for a, b in pairwise(seconds)}
    assert len(gaps) == 1, "evenly spread"


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw.pop("runs"),
        lambda raw: raw["runs"].update(ttft=[1, 2]),
        lambda raw: raw["runs"]["ttft"].__setitem__(0, [-1.0]),
        lambda raw: raw["runs"]["ttft"].__setitem__(2, "x"),
        lambda raw: raw["totals"].update(ttft=[[5, 4, 0, 0]]),
        lambda raw: raw["proof"].update({"ttft:p50": [[0.0], False, 3]}),
        lambda raw: raw.update(taken={"ttft@1": "x"}),
    ],
)
def test_a_damaged_state_is_refused(damage: object) -> None:
    stage = make_stage((Metric.TTFT,))
    _, state, _ = run(Arms(stage, 5.0, 20.0), 3)
    raw = json.loads(state.to_json())
    assert callable(damage)
    damage(raw)
    with pytest.raises(ValueError, match="no stored state"):
        GateState.from_json(json.dumps(raw))


def test_a_proof_survives_json_and_the_next_stage_carries_on_with_it() -> None:
    stage = make_stage((Metric.TTFT,))
    gate, state, _ = run(Arms(stage, 20.0, 80.0), 15, stop=False)
    assert not gate.judge(state).proven
    proof = Proof.from_json(state.proof.to_json())
    assert proof == state.proof
    following = replace(make_stage((Metric.TTFT,)), name="the next step")
    before = {line.quantile: line for line in gate.judge(state).proof}
    after = Gate(following).judge(start_state(following, proof))
    assert {line.quantile: line for line in after.proof} == before
    with pytest.raises(ValueError, match="no stored proof"):
        Proof.from_json("[1]")
