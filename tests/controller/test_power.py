"""What a step can find at its real rate: after a while, seldom, and beside the event loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field

import pytest

from llmrollouts.analysis import sizing
from llmrollouts.analysis.baseline import Baseline
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import BUCKETS
from llmrollouts.analysis.judgement import Judgement, Outcome
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.reach import Reach
from llmrollouts.analysis.stage import Stage
from llmrollouts.controller import power
from llmrollouts.controller.power import EVERY, StepPower
from tests.controller.test_measure import comparing

STAGE = sizing.suppose_stage(Policy(), 0.002, 1800, 1)


def judgement(canary: int, seconds: int, control: int | None = None) -> Judgement:
    control = 4 * canary if control is None else control
    return Judgement(
        Outcome.GOOD, None, (), False, (), canary, control, seconds, None, None, (), "no harm"
    )


@dataclass
class Calculations:
    """Counts them, and answers at once."""

    rates: list[tuple[float, float]] = field(default_factory=list)
    broken: bool = False

    def find(self, stage: Stage, rate: float, control_rate: float) -> Reach:
        self.rates.append((rate, control_rate))
        if self.broken:
            raise FloatingPointError("a bug")
        return Reach(f"{rate:g}", "", False, f"{stage.name} at {rate:g}")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Calculations:
    found = Calculations()
    monkeypatch.setattr(power, "find_reach", found.find)
    return found


async def settle(step: StepPower) -> None:
    for _ in range(10_000):
        if step._task is None or step._task.done():
            return
        await asyncio.sleep(0.003)
    raise AssertionError("it never ends")


async def look(step: StepPower, said: Judgement, now: float, stage: Stage = STAGE) -> Reach | None:
    step.look(stage, said, now)
    await settle(step)
    return step.known(stage.name)


async def test_nothing_is_said_before_the_rate_is_known(made: Calculations) -> None:
    step = StepPower(asyncio.Semaphore(1))
    assert await look(step, judgement(15, 20), 20) is None
    assert await look(step, judgement(25, 29), 29) is None
    found = await look(step, judgement(26, 30), 30)
    assert found is not None
    assert found.rate == f"{26 / 30:g}"


async def test_without_the_tap_it_is_told_what_the_histograms_show(made: Calculations) -> None:
    step = StepPower(asyncio.Semaphore(1))
    histogram = tuple(200 if bucket in (140, 160) else 0 for bucket in range(BUCKETS + 1))
    stable = Baseline({Metric.TTFT: histogram})
    step.look(STAGE, judgement(400, 50), 50, stable)
    await settle(step)
    found = step.known(STAGE.name)
    assert found is not None
    assert "judged by the engine's own histograms" in found.message
    assert made.rates == []


async def test_where_hardly_any_request_comes_it_is_said_after_five_minutes(
    made: Calculations,
) -> None:
    step = StepPower(asyncio.Semaphore(1))
    assert await look(step, judgement(0, 299), 299) is None
    assert await look(step, judgement(0, 300), 300) is not None
    assert made.rates == [(0.0, 0.0)]


async def test_once_a_minute_and_only_for_another_rate(made: Calculations) -> None:
    step = StepPower(asyncio.Semaphore(1))
    for second in range(30, 600):
        await look(step, judgement(4 * second, second), second)
    assert made.rates == [(4.0, 16.0)]
    # Twice as many from then on: the rate of the stage rises by a fifth after a while.
    for second in range(600, 1200):
        await look(step, judgement(2400 + 8 * (second - 600), second), second)
    assert 2 <= len(made.rates) <= 4
    found = step.known(STAGE.name)
    assert found is not None
    assert float(found.rate) > 4.8


async def test_at_most_once_a_minute_whatever_the_rate_does(made: Calculations) -> None:
    step = StepPower(asyncio.Semaphore(1))
    for second in range(30, 330):
        await look(step, judgement(100 * 2 ** (second % 7), 100), second)
    assert len(made.rates) <= 300 / EVERY


async def test_another_stage_begins_without_a_word(made: Calculations) -> None:
    step = StepPower(asyncio.Semaphore(1))
    await look(step, judgement(200, 50), 50)
    other = sizing.suppose_stage(Policy(), 0.002, 900, 1)
    object.__setattr__(other, "name", "canary/1/2-Canary-50000")
    assert await look(step, judgement(1, 1), 60, other) is None
    assert step.known(STAGE.name) is None
    assert await look(step, judgement(200, 50), 110, other) is not None


async def test_an_error_is_logged_and_it_is_tried_again(
    made: Calculations, caplog: pytest.LogCaptureFixture
) -> None:
    step = StepPower(asyncio.Semaphore(1))
    made.broken = True
    assert await look(step, judgement(200, 50), 50) is None
    assert "Failed to work out what a step can find" in caplog.text
    made.broken = False
    assert await look(step, judgement(204, 51), 51) is None
    assert await look(step, judgement(440, 110), 110) is not None


async def test_many_steps_take_turns_and_leave_time_between(
    made: Calculations, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[tuple[float, float]] = []

    def find(stage: Stage, rate: float, control_rate: float) -> Reach:
        began = time.perf_counter()
        time.sleep(0.02)
        spans.append((began, time.perf_counter()))
        return made.find(stage, rate, control_rate)

    monkeypatch.setattr(power, "find_reach", find)
    turn = asyncio.Semaphore(1)
    steps = [StepPower(turn) for _ in range(4)]
    for number, step in enumerate(steps):
        step.look(STAGE, judgement(100 * (number + 1), 50), 50)
    for step in steps:
        await settle(step)
    assert len(made.rates) == 4
    for (began, ended), (later, _) in itertools.pairwise(spans):
        assert later - ended > 3 * (ended - began)


async def test_the_loop_goes_on_while_it_is_calculated() -> None:
    sizing._growth.cache_clear()
    step = StepPower(asyncio.Semaphore(1))
    began = time.perf_counter()
    step.look(STAGE, judgement(4250, 100), 100)
    assert time.perf_counter() - began < 0.1, "a look must not wait for it"
    turns = 0
    while step.known(STAGE.name) is None:
        await asyncio.sleep(0.005)
        turns += 1
    assert turns >= 5


async def test_the_gate_says_it_with_its_verdict() -> None:
    world = await comparing(rate=4.0)
    gate = await world.run(40)
    await settle(world.measurement._power)
    gate = await world.second()
    assert gate.power is not None
    assert 2.5 < float(gate.power.rate) < 6
    assert not gate.power.blind
    assert gate.power.message.startswith(f"With {gate.power.rate} compared canary requests")
    world.stage = "canarycana/1/2-Canary-50000"
    assert (await world.second()).power is None


async def test_a_canary_that_hardly_anybody_asks_is_blind() -> None:
    """0.5 % of two requests a second, without copies."""
    world = await comparing(rate=2.0)
    world.canary_rate = 0.01
    world.stage = "canarycana/1/2-Canary-5000"
    world.began = world.time
    await world.run(330)
    await settle(world.measurement._power)
    gate = await world.second()
    assert gate.power is not None
    assert gate.power.blind
    assert float(gate.power.rate) < 0.05
    assert gate.verdict == "Inconclusive"
