"""The measurement of engines without a tap, second by second, on vLLM's own page of metrics."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import GROWTH
from llmrollouts.analysis.policy import Policy
from llmrollouts.kube.port import CONFIG_MAP
from llmrollouts.metrics.record import EvidenceRecord
from tests.controller.gate_world import CANARY
from tests.controller.untapped_world import UntappedWorld
from tests.fakes.engines import TPOT, TTFT
from tests.fakes.taps import FakeTap, Law

# Its first tokens lie where vLLM's bounds are close: 40, 60, 80, 100 and 250 ms.
USUAL = Law(ttft=0.06)
FINE = [0.001 * GROWTH ** (2 * i) for i in range(100)]


async def comparing(law: Law = USUAL, **how: Any) -> UntappedWorld:
    """A world whose thresholds are set and whose canary has had its first requests."""
    world = UntappedWorld(**how)
    world.law = world.canary_law = law
    await world.warm_up(10)
    await world.run_until("Passed", limit=60)
    return world


def stored(world: UntappedWorld) -> EvidenceRecord:
    found = world.kube.peek(CONFIG_MAP, "prod", "chat-evidence")
    assert found is not None
    return EvidenceRecord.from_data(found["data"])


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_a_canary_that_is_twice_as_slow_is_taken_back_and_an_equal_one_is_not(
    seed: int,
) -> None:
    world = await comparing(seed=seed)
    assert (await world.run(60)).verdict == "Passed"
    world.canary_law = Law(ttft=0.12, token=0.02)
    assert await world.run_until("Failed") <= 30
    (gate,) = world.measurement.gates()
    assert gate.reason == "Slower"


async def test_the_message_says_by_what_it_is_judged_what_is_not_seen_and_what_to_do() -> None:
    world = await comparing()
    gate = await world.run(30)
    assert (gate.verdict, gate.reason, gate.proof) == ("Passed", "NoTap", "Collecting")
    assert "No harm was seen in" in gate.message
    for told in ("engine's own histograms", "hangs", "no worse", "spec.revision.engine.tap"):
        assert told in gate.message
    assert gate.numbers is not None
    assert gate.numbers.canary_requests > 300
    assert gate.numbers.cut_streams is None, "nobody counted them"
    for metric in gate.numbers.metrics:
        assert (metric.p50, metric.p95, metric.p99) == (None, None, None), "rounded apart"


async def test_nothing_is_proven_however_long_it_is_good() -> None:
    world = await comparing(bounds={TTFT: FINE, TPOT: FINE}, rate=30.0)
    gate = await world.run(100)
    assert (gate.verdict, gate.proof) == ("Passed", "Collecting")
    compared = world.measurement._compared
    assert compared is not None
    assert compared.state.proof.requests == {}


async def test_fine_bounds_find_what_vllms_own_bounds_cannot() -> None:
    """A median of 95 ms becomes 190 ms: between 100 and 250 ms vLLM has no bound."""
    slow, twice = Law(), Law(ttft=0.19, token=0.02)
    coarse = await comparing(slow)
    coarse.canary_law = twice
    assert (await coarse.run(40)).verdict == "Passed"
    fine = await comparing(slow, bounds={TTFT: FINE, TPOT: FINE})
    fine.canary_law = twice
    assert await fine.run_until("Failed") <= 20


async def test_a_longer_answer_is_not_a_slower_one() -> None:
    world = await comparing()
    world.canary_law = replace(USUAL, tokens=512)
    assert (await world.run(90)).verdict == "Passed"


async def test_failing_requests_are_found() -> None:
    world = await comparing()
    world.canary_law = replace(USUAL, failing=0.2)
    assert await world.run_until("Failed") <= 25
    (gate,) = world.measurement.gates()
    assert gate.reason == "MoreErrors"


async def test_both_slow_together_is_nobodys_fault() -> None:
    world = await comparing()
    world.law = world.canary_law = Law(ttft=0.4)
    assert (await world.run(40)).verdict == "Passed"


async def test_a_hanging_canary_is_never_passed_although_no_histogram_shows_it() -> None:
    world = await comparing()
    await world.run(20)
    world.canary_law = replace(USUAL, hangs=True)
    for _ in range(30):
        gate = await world.second()
        if gate.verdict != "Passed":
            break
    assert (gate.verdict, gate.reason) == ("Inconclusive", "NoTap")
    assert "ended none: requests that hang are in no histogram" in gate.message
    world.canary_law = USUAL
    assert await world.run_until("Passed", limit=30) <= 5


async def test_a_limit_is_judged_at_the_bound_above_it() -> None:
    world = UntappedWorld()
    world.law = world.canary_law = USUAL
    world.options = {"policy": Policy(limits={Metric.TTFT: 0.3, Metric.DURATION: 3.0})}
    await world.warm_up(10)
    await world.run_until("Passed", limit=60)
    world.canary_law = Law(ttft=0.7)
    assert await world.run_until("Failed") <= 30
    (gate,) = world.measurement.gates()
    assert gate.numbers is not None
    assert {"ttftP99", "e2eP99"} <= {metric.name for metric in gate.numbers.metrics}


@pytest.mark.parametrize("tapped", ["s", "c"])
async def test_if_one_revision_has_no_tap_both_are_read_by_their_engines(tapped: str) -> None:
    world = UntappedWorld()
    world.law = world.canary_law = USUAL
    for engine in [*world.both.engines.engines.values()]:
        if engine.worker.name.startswith(tapped):
            world.reader.add(FakeTap(engine.worker.name, world.clock, skew=world.time - 500.0))
            world.both.tapped.add(engine.worker.name)
    await world.warm_up(10)
    await world.run_until("Passed", limit=60)
    compared = world.measurement._compared
    assert compared is not None
    assert compared.source == "engine"
    assert set(compared.canary.values()) == {"c0"}
    assert len(compared.control) == 4


async def test_pages_that_cannot_be_read_pass_nothing_and_say_why() -> None:
    world = UntappedWorld()
    for engine in world.both.engines.engines.values():
        engine.page.hidden.add(TTFT)
    await world.warm_up(5)
    gate = await world.run(20)
    assert (gate.verdict, gate.reason) == ("Inconclusive", "NoTap")
    assert "has no vllm:time_to_first_token_seconds" in gate.message


@pytest.mark.parametrize(
    ("status", "told"), [(404, "older than this operator"), (503, "the launcher answered 503")]
)
async def test_a_launcher_that_gives_no_page_passes_nothing(status: int, told: str) -> None:
    world = await comparing()
    await world.run(15)
    world.both.engines.status = status
    gate = await world.run(6)
    assert (gate.verdict, gate.reason) == ("Inconclusive", "NoTap")
    assert told in gate.message
    world.both.engines.status = 200
    assert (await world.run(4)).verdict == "Passed"


async def test_a_canary_whose_page_falls_silent_is_not_passed() -> None:
    world = await comparing()
    world.engine("c0").silent = True
    gate = await world.run(6)
    assert (gate.verdict, gate.reason) == ("Inconclusive", "NoTap")
    assert "c0 did not answer" in gate.message


async def test_a_stale_page_is_not_passed() -> None:
    world = await comparing()
    await world.run(10)
    canary = world.engine("c0")
    frozen = canary.page.text().encode()

    def stale() -> bytes:
        canary.page.probes += 1
        number = canary.page.probes
        told = b'idle_probes_total{result="token"} '
        return frozen[: frozen.index(told)] + told + str(number).encode() + b"\n"

    canary.show = stale  # type: ignore[method-assign]  # a page that no longer moves
    for _ in range(10):
        gate = await world.second()
    assert (gate.verdict, gate.reason) == ("Inconclusive", "NoTap")
    assert "stale" in gate.message


async def test_a_restarted_canary_is_cold_and_then_compared_again() -> None:
    world = await comparing()
    await world.run(10)
    world.engine("c0").restart()
    await world.run(30)
    assert (await world.second()).verdict == "Passed"
    world.canary_law = Law(ttft=0.12, token=0.02)
    assert await world.run_until("Failed") <= 40


async def test_after_a_restart_of_the_operator_the_same_stage_goes_on_by_the_same_means() -> None:
    world = await comparing()
    await world.run(25)
    await asyncio.sleep(0.01)
    before = stored(world)
    assert (before.source, before.stage is not None) == ("engine", True)
    world.both.forget_history()
    world.start()
    gate = await world.run(5)
    compared = world.measurement._compared
    assert compared is not None
    assert compared.source == "engine"
    assert len(compared.control) == 4, "the lives of the engines have gone on"
    assert "half" not in gate.message
    assert gate.numbers is not None
    assert before.state is not None
    assert gate.numbers.canary_requests >= 20 * 20
    world.canary_law = Law(ttft=0.12, token=0.02)
    assert await world.run_until("Failed") <= 30


async def told(world: UntappedWorld) -> str:
    """What the step is said to find, once that is worked out."""
    for _ in range(1000):
        (gate,) = world.measurement.gates()
        if gate.power is not None:
            return gate.power.message
        await asyncio.sleep(0.01)
        await world.second()
    raise AssertionError("nothing is said")


async def test_it_says_what_the_step_finds_also_after_a_restart_of_the_operator() -> None:
    world = await comparing(rate=10.0)
    await world.run(35)
    first = await told(world)
    assert "ttft 2x slower within" in first
    assert "judged by the engine's own histograms" in first
    await asyncio.sleep(0.01)
    world.both.forget_history()
    world.start()
    await world.run(35)
    assert "ttft 2x slower within" in await told(world)


async def test_the_next_stage_looks_for_the_tap_anew() -> None:
    world = await comparing()
    await world.run(5)
    for engine in [*world.both.engines.engines.values()]:
        tap = world.reader.add(FakeTap(engine.worker.name, world.clock, skew=world.time - 500.0))
        world.both.tapped.add(engine.worker.name)
        serving = engine.serve

        def both(
            at: float, law: Law, rng: Any, mirrored: bool, own: Any = serving, tap: FakeTap = tap
        ) -> None:
            own(at, law, rng)
            tap.serve(at, law, rng, mirrored)

        engine.serve = both  # type: ignore[method-assign,assignment]  # the tap hears what the engine serves
    world.stage = f"{CANARY}/1/2-Canary-50000"
    for _ in range(60):
        gate = await world.second()
        if gate.verdict == "Passed":
            break
    compared = world.measurement._compared
    assert compared is not None
    assert compared.source == "tap"
    assert "histograms" not in gate.message
    assert Metric.E2E in compared.stage.thresholds, "no baseline of the engine's page is left"


async def test_the_placebo_says_that_it_needs_the_tap() -> None:
    world = UntappedWorld()
    world.law = world.canary_law = USUAL
    world.options = {"placebo": True}
    await world.warm_up(10)
    await world.run_until("Passed", limit=60)
    (gate,) = world.measurement.gates()
    assert "the placebo needs the tap and does not run" in gate.message
