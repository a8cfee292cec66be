"""Whole rollouts, played in the small world; each leaves a transcript that a person can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.observation import Gate, SourceProblem
from tests.rollout.specs import SHORT_STEPS, make_spec
from tests.rollout.world import World

Scenario = Callable[[], World]
Steps = list[dict[str, object]]


def serving(world: World | None = None) -> World:
    """A world in which <A> serves with all its workers."""
    world = world if world is not None else World()
    world.run(lambda w: w.status.phase == "Serving")
    return world


def rolling(world: World | None = None, latency: str = "Off", **strategy: object) -> World:
    """<A> serves and the spec names <B>."""
    world = serving(world)
    replicas = world.spec.replicas
    steps = strategy.pop("steps", SHORT_STEPS)
    world.edit(
        make_spec("two", steps=cast(Steps, steps), replicas=replicas, latency=latency, **strategy)
    )
    world.run(lambda w: w.status.canary_revision is not None)
    return world


def in_step(
    index: int, world: World | None = None, latency: str = "Off", **strategy: object
) -> World:
    """The step with this index runs and its share flows."""
    world = rolling(world, latency, **strategy)
    world.run(
        lambda w: (
            w.status.step is not None
            and w.status.step.index == index
            and w.status.step.running_since is not None
        )
    )
    return world


def failed_first() -> World:
    """The very first revision died twice and failed; its workers would die again."""
    world = World()
    world.starts_broken.add("<A>")
    world.run(seconds=10)
    for _ in range(2):
        world.kill_container(world.name("A"))
        world.run(seconds=5)
    assert world.status.phase == "Failed"
    return world


def promoted(world: World | None = None, latency: str = "Off", **strategy: object) -> World:
    """<B> was promoted a moment ago and <A> is warm."""
    world = rolling(world, latency, **strategy)
    world.run(lambda w: w.status.warm is not None)
    return world


def at_rest(world: World, seconds: float = 600.0) -> World:
    """Nothing is on its way any more."""
    world.run(
        lambda w: (
            w.status.canary_revision is None
            and not w.status.retiring
            and w.command is None
            and w.programmed == w.actual
        ),
        seconds=seconds,
    )
    return world


def whole_rollout() -> World:
    world = promoted()
    world.run(lambda w: w.status.warm is None and not w.status.retiring, seconds=2 * 3600)
    return world


def rollback_in_a_canary_step() -> World:
    world = in_step(2)
    world.say("rollback/3am")
    return at_rest(world)


def rollback_after_promotion() -> World:
    world = promoted()
    world.say("rollback")
    return at_rest(world)


def retry_of_a_rejected_revision() -> World:
    world = rollback_in_a_canary_step()
    world.say("retry:<B>/1")
    world.run(lambda w: w.status.step is not None and w.status.step.index == 1)
    return world


def two_deaths_of_the_canary() -> World:
    world = in_step(3)
    canary = world.status.canary_revision or ""
    world.kill_container(canary)
    world.run(seconds=5)
    world.kill_container(canary)
    return at_rest(world)


def failed_gate() -> World:
    """A gate of the user's own fails; users lose what fails before they are back."""
    world = in_step(1)
    world.failing[world.name("B")] = 0.5
    world.run(seconds=10)
    world.gates = (Gate("prometheus/cost", "Failed", "LimitBroken", "2.1 is above 1.5"),)
    return at_rest(world)


def good_revision_through_every_gate() -> World:
    world = promoted(latency="Enforce", rollback_window="5m")
    world.run(lambda w: w.status.warm is None and not w.status.retiring, seconds=1800)
    return world


def slow_revision_stopped_in_its_shadow() -> World:
    world = in_step(0, latency="Enforce")
    world.run(seconds=20)
    world.latency.say("Failed", "Slower", "TTFT p95 is 2.1 times stable's, on 180 requests")
    return at_rest(world)


def slow_revision_stopped_in_its_canary() -> World:
    world = in_step(2, latency="Enforce")
    world.failing[world.name("B")] = 0.2
    world.run(seconds=20)
    world.latency.say("Failed", "Slower", "TTFT p95 is 2.1 times stable's, on 180 requests")
    return at_rest(world)


def both_slow_freezes() -> World:
    world = in_step(2, latency="Enforce")
    world.latency.say(
        "Frozen", "ObjectiveMissed", "TTFT p99 is above 350ms for canary and stable", "Proven"
    )
    world.run(seconds=120)
    world.say("resume/1")
    world.run(seconds=20)
    world.tell("both are fast again")
    world.latency.say("Passed", "NoHarm", "no harm seen in 9000 requests", "Proven")
    world.say("resume/2")
    world.run(lambda w: w.status.step is not None and w.status.step.index == 3)
    return world


DEADLINES: Final[Steps] = [
    {"shadow": {"share": "5%", "duration": "1m", "deadline": "5m"}},
    {"canary": {"share": "5%", "duration": "1m", "deadline": "5m"}},
    {"canary": {"share": "50%", "duration": "1m", "deadline": "5m"}},
]


def too_few_samples_hold_at_the_deadline() -> World:
    world = in_step(1, latency="Enforce", steps=DEADLINES)
    world.latency.say("Inconclusive", "TooFewSamples", "needs 90 more requests, about 3m")
    world.run(lambda w: w.status.hold is not None, seconds=400)
    world.run(seconds=60)
    world.say("resume")
    world.run(seconds=60)
    world.latency.say("Passed", "NoHarm", "no harm seen in 900 requests", "Proven")
    world.run(lambda w: w.status.step is not None and w.status.step.index == 2)
    return world


def too_few_samples_roll_back_at_the_deadline() -> World:
    world = in_step(1, latency="Enforce", steps=DEADLINES, on_inconclusive="Rollback")
    world.latency.say("Passed", "NoHarm", "no harm seen in 90 requests", "Collecting")
    return at_rest(world)


def regression_after_the_promotion() -> World:
    world = promoted(latency="Enforce")
    world.run(seconds=120)
    world.latency.say("Failed", "Slower", "TPOT p50 is 1.4 times stable's, on 3000 requests")
    return at_rest(world)


def both_revisions_die_in_an_outage() -> World:
    world = in_step(2)
    stable, canary = world.name("A"), world.name("B")
    world.kill_container(canary)
    world.kill_container(stable)
    world.run(seconds=10)
    world.kill_container(canary)
    world.run(lambda w: w.status.step is not None and w.status.step.index == 3)
    return world


def lapse_and_return() -> World:
    world = in_step(2)
    world.tell("the gateways fall silent")
    world.cut_off = True
    world.run(seconds=30)
    world.tell("the gateways are back")
    world.cut_off = False
    world.run(lambda w: w.status.step is not None and w.status.step.index == 3)
    return world


def two_lapses_for_one_cause_hold() -> World:
    world = in_step(2)
    for _ in range(2):
        world.tell("the gateways fall silent")
        world.reports = False
        world.silent_since = world.now
        world.run(lambda w: w.status.lapse is not None and w.status.lapse.active)
        world.reports = True
        world.run(lambda w: w.status.lapse is not None and not w.status.lapse.active)
    world.run(seconds=30)
    world.say("resume")
    world.run(lambda w: w.status.step is not None and w.status.step.index == 3)
    return world


def another_revision_in_mid_rollout() -> World:
    world = in_step(2)
    world.edit(make_spec("three", steps=SHORT_STEPS))
    world.run(lambda w: w.status.step is not None and w.status.step.index == 1)
    return world


def spec_reverted_in_mid_rollout() -> World:
    world = in_step(3)
    world.edit(make_spec("one", steps=SHORT_STEPS))
    return at_rest(world)


def spec_reverted_while_warm() -> World:
    world = promoted()
    world.edit(make_spec("one", steps=SHORT_STEPS))
    return at_rest(world)


def next_revision_while_warm() -> World:
    world = promoted()
    world.edit(make_spec("three", steps=SHORT_STEPS))
    world.run(lambda w: w.status.step is not None and w.status.step.index == 1)
    return world


def first_revision_fails_and_is_mended() -> World:
    world = World()
    world.starts_broken.add("<A>")
    world.run(seconds=20)
    first = world.name("A")
    world.kill_container(first, "Error")
    world.run(seconds=10)
    world.kill_container(first, "Error")
    world.run(lambda w: w.status.phase == "Failed")
    world.edit(make_spec("two", steps=SHORT_STEPS))
    world.run(lambda w: w.status.phase == "Serving" and not w.status.retiring)
    return world


def status_wiped_in_mid_rollout() -> World:
    world = in_step(3)
    world.tell("the status is wiped by hand")
    world.status = LLMDeploymentStatus()
    world.run(lambda w: w.status.step is not None and w.status.step.index == 1)
    return world


def little_room() -> World:
    """One extra worker for four: stable gives way one for one, and the status says so."""
    world = serving(World(make_spec(steps=SHORT_STEPS, max_extra_replicas=1)))
    world.edit(make_spec("two", steps=SHORT_STEPS, max_extra_replicas=1))
    world.run(
        lambda w: w.status.stable_revision == w.name("B") and not w.status.retiring,
        seconds=3 * 3600,
    )
    return world


def pause_skip_and_promote_in_full() -> World:
    world = in_step(1)
    world.say("pause")
    world.run(seconds=120)
    world.say("resume")
    world.run(seconds=4)
    world.say("skip:{canary}")
    world.run(seconds=10)
    world.say("promote-full:{canary}")
    world.run(lambda w: w.status.warm is not None)
    return world


def stored_revision_by_command() -> World:
    world = whole_rollout()
    world.say("rollback:<A>")
    world.run(lambda w: w.status.stable_revision == w.name("A"))
    return world


def operator_killed_in_a_canary_step() -> World:
    world = in_step(3)
    world.tell("both operator replicas are killed")
    world.restart(away=20)
    world.tell("another one leads")
    world.run(lambda w: w.status.warm is not None)
    return world


def broken_reference() -> World:
    world = in_step(2)
    world.problem = SourceProblem("ConfigMapMissing", "ConfigMap prompt does not exist")
    world.edit(make_spec("three", steps=SHORT_STEPS))
    world.run(seconds=120)
    return world


SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.__name__: scenario
    for scenario in (
        whole_rollout,
        rollback_in_a_canary_step,
        rollback_after_promotion,
        retry_of_a_rejected_revision,
        two_deaths_of_the_canary,
        failed_gate,
        good_revision_through_every_gate,
        slow_revision_stopped_in_its_shadow,
        slow_revision_stopped_in_its_canary,
        both_slow_freezes,
        too_few_samples_hold_at_the_deadline,
        too_few_samples_roll_back_at_the_deadline,
        regression_after_the_promotion,
        both_revisions_die_in_an_outage,
        lapse_and_return,
        two_lapses_for_one_cause_hold,
        another_revision_in_mid_rollout,
        spec_reverted_in_mid_rollout,
        spec_reverted_while_warm,
        next_revision_while_warm,
        first_revision_fails_and_is_mended,
        status_wiped_in_mid_rollout,
        little_room,
        pause_skip_and_promote_in_full,
        stored_revision_by_command,
        operator_killed_in_a_canary_step,
        broken_reference,
    )
}
