"""When a measurement looks: once a second, just after its workers' seconds are complete."""

from __future__ import annotations

import asyncio
import math
import statistics
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.controller import measure
from llmrollouts.controller.rhythm import ALLOWANCE, LONGEST, PERIOD, SHORTEST, next_look
from tests.controller.fault_delay import Fault, Nodes, measure_delay
from tests.controller.gate_world import CANARY, START, World

MOMENTS = st.floats(-10.0, 10.0).map(lambda apart: START + apart)


def test_a_look_comes_just_after_the_next_second_is_complete() -> None:
    assert next_look(100.0, 100.1, 90.7) == pytest.approx(100.7 + ALLOWANCE)
    assert next_look(100.7 + ALLOWANCE, 100.8, 90.7) == pytest.approx(101.7 + ALLOWANCE)


def test_while_that_moment_is_unknown_the_beat_is_kept() -> None:
    assert next_look(100.0, 100.1, None) == 100.0 + PERIOD
    assert next_look(100.0, 100.1, math.nan) == 100.0 + PERIOD


def test_a_look_that_took_too_long_is_followed_at_once_or_at_the_next_moment() -> None:
    assert next_look(100.0, 102.5, None) == 102.5
    assert 102.5 <= next_look(100.0, 102.5, 90.7) <= 102.7 + ALLOWANCE


@given(looked=MOMENTS, took=st.floats(0.0, 3.0), closes=st.one_of(st.none(), MOMENTS))
def test_two_looks_are_never_far_from_a_second_apart(
    looked: float, took: float, closes: float | None
) -> None:
    due = next_look(looked, looked + took, closes)
    assert due >= looked + took
    assert SHORTEST - 1e-6 <= due - looked <= max(LONGEST, took) + 1e-6


@given(closes=MOMENTS, jumps=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
def test_however_the_moment_jumps_two_looks_later_it_is_met(
    closes: float, jumps: list[float]
) -> None:
    looked = START + 20
    for jump in jumps:
        closes += jump
        for _ in range(2):
            looked = next_look(looked, looked + 0.02, closes)
        assert (looked - closes - ALLOWANCE + 1e-6) % PERIOD < 2e-6


async def _delays(
    fault: Fault, seeds: range, stable: int, nodes: Nodes
) -> tuple[list[float], float]:
    """Of one fault at many phases of the clocks; and looks a second."""
    told = await asyncio.gather(
        *(measure_delay(fault, seed, stable=stable, nodes=nodes) for seed in seeds)
    )
    found = [delay.verdict for delay in told if delay.verdict is not None]
    assert len(found) == len(seeds)
    return found, statistics.mean(delay.looks for delay in told)


@pytest.mark.looptime
@pytest.mark.parametrize(("stable", "nodes"), [(1, "one node"), (3, "many nodes")])
async def test_a_hang_is_found_sooner_than_by_looks_at_any_phase(
    stable: int, nodes: Literal["one node", "many nodes"], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = range(8)
    follows, looks = await _delays("hang", seeds, stable, nodes)
    monkeypatch.setattr(measure, "next_look", lambda looked, now, _: max(now, looked + PERIOD))
    keeps, looks_before = await _delays("hang", seeds, stable, nodes)
    # On average a look at any phase comes half a second after the second is complete.
    assert statistics.mean(follows) < statistics.mean(keeps) - 0.25
    assert max(follows) < 10.0
    assert looks < 1.05 * looks_before


async def test_two_looks_in_one_second_lose_nothing_of_what_the_gateways_counted() -> None:
    world = World()
    await world.warm_up()
    await world.run_until("Passed", limit=20)
    for number in range(6):
        world.gateways.count(CANARY, 3, 0)
        await world.second()
        world.time += 0.4
        world.gateways.count(CANARY, 2, 0, errors=int(number == 3))
        await world.measurement.look()
        world.time -= 0.4
    await world.second()
    compared = world.measurement._compared
    assert compared is not None
    (cell,) = compared.state.totals["connections"]
    assert (cell.canary_over, cell.canary_total) == (1, 6 * (3 + 2))
