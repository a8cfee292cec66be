"""Commands: exactly once, and what is refused says why."""

from __future__ import annotations

import pytest

from tests.rollout.scenarios import failed_first, in_step, promoted, serving
from tests.rollout.specs import SHORT_STEPS, make_spec
from tests.rollout.world import World


def told(world: World) -> tuple[str, str]:
    assert world.status.command is not None
    return (world.status.command.result, world.rename(world.status.command.message))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("promote:{canary}x", "but the canary is <B>"),
        ("promote", "must name the revision"),
        ("skip:bcdfghjklm", "but the canary is <B>"),
        ("retry:{canary}", "is not rejected"),
        ("explode", "the verbs are"),
        ("", "is no command"),
        ("pause:{canary}", "takes no revision"),
        ("x" * 100_000, "is no command"),
        ("rollback:zzzzzzzzzz", "is not stored"),
        ("resume", "neither paused nor held"),
    ],
)
def test_r26_what_cannot_be_done_is_refused_with_its_reason(command: str, says: str) -> None:
    world = in_step(1)
    step = world.status.step
    world.say(command)
    world.round()
    assert told(world)[0] == "Refused"
    assert says in told(world)[1]
    assert world.command is None, "a refused command is removed too"
    assert world.status.step is not None
    assert step is not None
    assert world.status.step.index == step.index
    refused = next(c for c in world.status.conditions if c.type == "CommandRefused")
    assert refused.status == "True"


def test_a_command_in_the_applied_manifest_is_refused_once_and_left_alone() -> None:
    world = in_step(1)
    world.say("promote-full:{canary}")
    world.command_applied = True
    world.run(seconds=20)
    told_so_far = list(world.status.history)
    assert told(world)[0] == "Refused"
    assert "applied manifest" in told(world)[1]
    assert world.command is not None
    world.round()
    world.round()
    assert world.status.history == told_so_far, "it is not refused again and again"
    assert world.status.promotion is None


def test_a_command_is_executed_once_though_its_removal_is_lost() -> None:
    world = in_step(0)
    world.say("skip:{canary}")
    given = world.command
    world.round(crash_after=2)
    assert world.status.step is not None
    assert world.status.step.index == 1
    assert world.command == given, "the operator died before it could remove the command"
    world.run(seconds=5)
    assert world.status.step.index == 1
    assert world.command is None


def test_the_same_command_can_be_given_again() -> None:
    world = in_step(0)
    for index in (1, 2):
        world.say("skip:{canary}")
        world.run(lambda w: w.command is None, seconds=10)
        assert world.status.step is not None
        assert world.status.step.index == index


def test_a_command_withdrawn_by_hand_before_its_removal_can_be_given_again() -> None:
    world = in_step(0)
    world.say("skip:{canary}")
    world.round(crash_after=2)
    world.command = None
    world.run(seconds=4)
    world.say("skip:{canary}")
    world.run(seconds=4)
    assert world.status.step is not None
    assert world.status.step.index == 2


def test_another_command_in_place_of_one_not_yet_removed_is_executed() -> None:
    world = in_step(0)
    world.say("skip:{canary}")
    world.round(crash_after=2)
    world.say("rollback")
    world.round()
    assert world.status.canary_revision is None


def test_pause_keeps_the_share_and_stops_the_clock() -> None:
    world = in_step(2)
    world.run(seconds=20)
    world.say("pause")
    world.round()
    held = world.status.step.held_seconds if world.status.step else 0
    world.run(seconds=600)
    assert world.status.step is not None
    assert world.status.step.index == 2
    assert world.status.step.held_seconds == held
    assert str(world.share) == "5%"
    world.say("resume")
    world.run(lambda w: w.status.step is not None and w.status.step.index == 3, seconds=60)


def test_refresh_takes_an_edited_text_in_as_a_new_revision() -> None:
    world = World()
    world.texts = {"prompt": "one"}
    serving(world)
    world.texts = {"prompt": "two"}
    world.run(seconds=10)
    assert world.status.canary_revision is None, "an edit in place rolls nothing out"
    changed = next(c for c in world.status.conditions if c.type == "SourceChanged")
    assert changed.status == "True"
    world.say("refresh")
    world.run(lambda w: w.status.canary_revision is not None, seconds=60)
    assert world.status.canary_revision == world.name("B")
    assert world.command is None
    assert told(world)[0] == "Done"


def test_refresh_back_to_an_earlier_text_uses_its_record_again() -> None:
    world = World()
    world.texts = {"prompt": "one"}
    serving(world)
    for text in ("two", "one"):
        world.texts = {"prompt": text}
        world.say(f"refresh/{text}")
        world.run(lambda w: w.command is None, seconds=60)
    world.run(seconds=30)
    assert len(world.records) == 2
    assert world.records[world.name("A")].number == 3
    assert world.status.canary_revision is None
    assert world.status.stable_revision == world.name("A")


def test_an_override_ends_when_the_spec_names_another_revision() -> None:
    world = promoted()
    world.run(lambda w: w.status.warm is None and not w.status.retiring, seconds=2 * 3600)
    world.say("rollback:<A>")
    world.run(lambda w: w.status.canary_revision == w.name("A"))
    assert world.status.override_revision == world.name("A")
    world.edit(make_spec("three", steps=SHORT_STEPS))
    world.run(lambda w: w.status.canary_revision == w.name("C"), seconds=120)
    assert world.status.override_revision is None


def test_retry_of_a_failed_first_revision_starts_with_fresh_workers() -> None:
    world = failed_first()
    old = {pod.name for pod in world.pods}
    world.starts_broken.clear()
    world.say("retry:<A>")
    world.run(lambda w: w.status.phase == "Serving", seconds=120)
    assert not old & {pod.name for pod in world.pods}
