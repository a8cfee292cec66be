"""Whole rollouts, played in the small world; each leaves a transcript that a person can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.observation import Gate, SourceProblem
from tests.rollout.specs import SHORT_STEPS, make_spec
from tests.rollout.world import World

Scenario = Callable[[], World]


def serving(world: World | None = None) -> World:
    """A world in which <A> serves with all its workers."""
    world = world if world is not None else World()
    world.run(lambda w: w.status.phase == "Serving")
    return world


def rolling(world: World | None = None, **strategy: object) -> World:
    """<A> serves and the spec names <B>."""
    world = serving(world)
    replicas = world.spec.replicas
    world.edit(make_spec("two", steps=SHORT_STEPS, replicas=replicas, **strategy))
    world.run(lambda w: w.status.canary_revision is not None)
    return world


def in_step(index: int, world: World | None = None, **strategy: object) -> World:
    """The step with this index runs and its share flows."""
    world = rolling(world, **strategy)
    world.run(
        lambda w: (
            w.status.step is not None
            and w.status.step.index == index
            and w.status.step.running_since is not None
        )
    )
    return world


def promoted(world: World | None = None, **strategy: object) -> World:
    """<B> was promoted a moment ago and <A> is warm."""
    world = rolling(world, **strategy)
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
    world = in_step(1)
    world.gates = (Gate("latency", "Failed", "Slower", "TTFT p99 612ms, objective 350ms"),)
    return at_rest(world)


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
