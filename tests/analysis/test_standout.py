"""One worker of several that stalls pays nothing; what all of them do is paid in full."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from llmrollouts.analysis.counts import Counts, LatencySecond, Metric, add_counts
from llmrollouts.analysis.evalue import Cell, log_e
from llmrollouts.analysis.gate import Gate, GateState, start_state
from llmrollouts.analysis.stage import Stage
from llmrollouts.analysis.standout import (
    LONGEST,
    NOTHING_RECENT,
    RARE_ODDS,
    WINDOW,
    Moment,
    find_standing_out,
    leave_out,
)
from tests.analysis.arms import count, draw, make_stage

BETS = ((0.9, 2.0),)
CAP = 1.5
CALM = (0, 4)
STALLED = (4, 4)


def name_workers(*shares: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {f"w{number}": share for number, share in enumerate(shares)}


def make_moment(second: int, *shares: tuple[int, int], stable: tuple[int, int] = (1, 40)) -> Moment:
    """One threshold; each canary worker's (over, total)."""
    over, total = (sum(share[i] for share in shares) for i in (0, 1))
    cell = Cell(over, total, *stable)
    gains = (log_e(cell, np.array(BETS[0]), CAP).tolist(),)
    workers = {name: [share] for name, share in name_workers(*shares).items()}
    return Moment(second, [cell], workers, gains)


def pay(*moments: Moment) -> list[list[float]]:
    """What each second pays, one value a bet."""
    recent, paid = NOTHING_RECENT, []
    for moment in moments:
        gains, recent = leave_out(recent, moment, BETS, [RARE_ODDS], CAP)
        paid.append(list(gains[0]))
    return paid


def test_a_worker_that_exceeds_alone_stands_out_and_workers_that_are_alike_do_not() -> None:
    assert find_standing_out(name_workers(STALLED, CALM, CALM, (1, 4)), RARE_ODDS) == ["w0"]
    assert find_standing_out(name_workers(STALLED, STALLED, CALM, (1, 4)), RARE_ODDS) == []
    assert find_standing_out(name_workers((12, 12), (12, 12), *[CALM] * 12), RARE_ODDS) == [
        "w0",
        "w1",
    ]
    assert find_standing_out(name_workers((30, 40), (28, 40), (33, 40)), RARE_ODDS) == []
    # One that is faster than the others is no stall.
    assert find_standing_out(name_workers((0, 40), (38, 40), (40, 40)), RARE_ODDS) == []


@pytest.mark.parametrize(
    "workers",
    [{}, name_workers((4, 4)), name_workers((4, 4), (0, 0)), name_workers(CALM, CALM)],
    ids=["none", "one", "one asked", "nothing exceeds"],
)
def test_nobody_stands_out_alone_or_without_exceeding(
    workers: dict[str, tuple[int, int]],
) -> None:
    assert find_standing_out(workers, RARE_ODDS) == []


def test_equal_workers_stand_out_no_more_often_than_the_odds_say() -> None:
    rng = np.random.default_rng(2)
    for workers, rate in product((2, 5, 20), (0.05, 0.5, 0.9)):
        drawn = rng.binomial(13, rate, (2000, workers)).tolist()
        found = [
            bool(find_standing_out(name_workers(*((n, 13) for n in run)), RARE_ODDS))
            for run in drawn
        ]
        assert np.mean(found) < 1 / RARE_ODDS


def test_a_stall_of_one_worker_pays_no_more_than_the_others_and_is_taken_back() -> None:
    begin = make_moment(0, (2, 4), CALM, CALM)
    middle = [make_moment(second, STALLED, CALM, CALM) for second in (1, 2)]
    paid = pay(begin, *middle)
    assert begin.gains[0][1] > 0.5, "nobody knows yet"
    assert all(sum(row[bet] for row in paid) <= 0 for bet in range(2))
    others = log_e(Cell(0, 8, 1, 40), np.array(BETS[0]), CAP)
    assert sum(row[1] for row in paid) == pytest.approx(3 * others[1])


def test_what_all_workers_do_is_paid_in_full() -> None:
    moments = [make_moment(second, *[(3, 4)] * 3) for second in range(6)]
    assert pay(*moments) == [list(moment.gains[0]) for moment in moments]


def test_nobody_is_ever_paid_more_than_the_whole_canary_would_be() -> None:
    rng = np.random.default_rng(3)
    moments = []
    for second in range(300):
        rates = np.where(rng.random(4) < 0.2, 0.9, 0.1)
        requests = rng.poisson(4, 4)
        over = rng.binomial(requests, rates)
        shares = list(zip(over.tolist(), requests.tolist(), strict=True))
        moments.append(make_moment(second, *shares, stable=(int(rng.poisson(3)), 40)))
    paid = np.cumsum(pay(*moments), axis=0)
    whole = np.cumsum([moment.gains[0] for moment in moments], axis=0)
    assert np.all(paid <= whole + 1e-9)
    assert np.any(paid < whole - 5)


def test_a_worker_that_is_slow_for_good_counts_again() -> None:
    moments = [make_moment(second, STALLED, CALM, CALM) for second in range(LONGEST + 6)]
    paid = pay(*moments)
    assert all(row[1] <= 0 for row in paid[: LONGEST - 1])
    assert all(row[1] > 0.5 for row in paid[LONGEST + 1 :])


def test_a_worker_that_recovered_may_stall_again() -> None:
    stall = [(0, STALLED), (1, STALLED), (2, STALLED)]
    shares = [*stall, *((second, CALM) for second in range(3, 20))]
    shares += [(20 + second, share) for second, share in stall]
    paid = pay(*(make_moment(second, share, CALM, CALM) for second, share in shares))
    assert sum(row[1] for row in paid[20:]) <= 0


def test_only_the_last_seconds_are_looked_at_and_remembered() -> None:
    recent = NOTHING_RECENT
    for second in range(10):
        _, recent = leave_out(recent, make_moment(second, CALM, CALM), BETS, [RARE_ODDS], CAP)
    assert [moment.second for moment in recent.moments] == list(range(11 - WINDOW, 10))
    # After a gap nothing of before is told together with what comes.
    _, recent = leave_out(recent, make_moment(60, STALLED, CALM), BETS, [RARE_ODDS], CAP)
    assert [moment.second for moment in recent.moments] == [60]


# The whole gate.


def run_gate(
    stage: Stage,
    slow: Callable[[int, int], float],
    seconds: int,
    *,
    told: bool = True,
    restarts: bool = False,
    seed: int = 1,
) -> Iterator[GateState]:
    """Three canary workers, 4 requests a second each. slow: factor by worker and second; told:
    whether the gate knows the workers; restarts: its state goes through JSON each second."""
    gate, state, rng = Gate(stage), start_state(stage), np.random.default_rng(seed)
    for second in range(seconds):
        for stream in stage.streams:
            exact = stage.measurement.exact.get(stream.metric, ())
            workers: dict[str, Counts] = {}
            for worker in range(3):
                times = draw(rng, stream.metric, int(rng.poisson(4))) * slow(worker, second)
                if times.size:
                    workers[f"w{worker}"] = count(times, stream.lag, exact)
            control = count(draw(rng, stream.metric, int(rng.poisson(20))), stream.lag, exact)
            canary = add_counts(workers.values())
            tick = LatencySecond(stream, second, canary, control, workers=workers if told else {})
            state = gate.take_latency(state, tick)
        if restarts:
            state = GateState.from_json(state.to_json())
        yield state


def take_turns(worker: int, second: int) -> float:
    """The workers stall one after the other, for three seconds, with 15 seconds in between."""
    return 4.0 if second % 18 < 3 and second // 18 % 3 == worker else 1.0


@pytest.mark.parametrize("metric", [Metric.TPOT, Metric.E2E])
def test_stalls_of_single_workers_roll_nothing_back(metric: Metric) -> None:
    stage = make_stage((metric,), canary_workers=3)
    *_, state = run_gate(stage, take_turns, 180)
    assert not state.decided
    *_, untold = run_gate(stage, take_turns, 180, told=False)
    assert untold.decided, "these stalls would have rolled it back"


def test_a_regression_of_all_workers_decides_at_the_same_second() -> None:
    stage = make_stage((Metric.TPOT,), canary_workers=3)

    def find(*, told: bool) -> int | None:
        states = run_gate(stage, lambda _, second: 1.3, 60, told=told)
        return next((s.decided["tpot"] for s in states if s.decided), None)

    assert find(told=True) == find(told=False) is not None


def test_one_worker_that_is_slow_for_good_is_found() -> None:
    stage = make_stage((Metric.TPOT,), canary_workers=3)
    *_, state = run_gate(stage, lambda worker, _: 4.0 if worker == 1 else 1.0, 60)
    assert "tpot" in state.decided


def test_a_restart_in_the_middle_of_a_stall_changes_nothing_bit_for_bit() -> None:
    stage = make_stage((Metric.TPOT, Metric.E2E), canary_workers=3)
    *_, straight = run_gate(stage, take_turns, 40)
    *_, again = run_gate(stage, take_turns, 40, restarts=True)
    assert straight.recent != {}
    assert again.to_json() == straight.to_json()


def test_a_state_from_before_workers_were_told_apart_is_read() -> None:
    *_, state = run_gate(make_stage((Metric.TPOT,), canary_workers=3), take_turns, 15)
    older = json.loads(state.to_json())
    del older["recent"]
    assert GateState.from_json(json.dumps(older)) == replace(state, recent={})


@pytest.mark.parametrize(
    "recent",
    [
        7,
        {"tpot@2": []},
        {"tpot@2": [[[1, [[0, 1]], {}, []]], []]},
        {"tpot@2": [[[1, [], {"w": [[1]]}, []]], []]},
        {"tpot@2": [[[1, [], {}, [[math.nan]]]], []]},
        {"tpot@2": [[], [{"w": "long"}]]},
    ],
)
def test_last_seconds_that_cannot_be_are_no_state(recent: object) -> None:
    raw = json.loads(start_state(make_stage((Metric.TPOT,), canary_workers=3)).to_json())
    with pytest.raises(ValueError, match="no stored state"):
        GateState.from_json(json.dumps(raw | {"recent": recent}))
