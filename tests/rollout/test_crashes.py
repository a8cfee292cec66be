"""The operator dies after each of its writes, in a whole rollout and in a rollback: the end is the
same, and on the way no rule of the world is broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.rollout.scenarios import at_rest, serving
from tests.rollout.specs import make_spec
from tests.rollout.world import World

QUICK: list[dict[str, object]] = [
    {"shadow": {"share": "5%", "duration": "4s", "minRequests": 1}},
    {"canary": {"share": "5%", "duration": "4s", "minRequests": 1}},
    {"canary": {"share": "50%", "duration": "4s", "minRequests": 1}},
]


def quick_world() -> World:
    return World(make_spec(steps=QUICK, rollback_window="30s"), start_seconds=2.0)


def end_of(world: World) -> tuple[object, ...]:
    """What a crash must not change. Records keep their content whenever they were written."""
    actual = world.actual
    assert actual is not None
    return (
        world.rename(world.status.stable_revision or ""),
        world.status.canary_revision,
        world.rename(actual.default or ""),
        [(world.rename(r.revision), str(r.share), str(r.mirror)) for r in actual.revisions],
        sorted((world.rename(w.revision), w.replicas, w.role) for w in world.workers.values()),
        sorted((world.rename(r.name), r.rejected is not None) for r in world.records.values()),
        sorted(world.rename(name) for name in world.config_maps),
        world.status.paused,
        world.status.phase,
        world.command,
    )


def roll_out(world: World, crash: tuple[int, int] | None) -> int:
    serving(world)
    world.edit(make_spec("two", steps=QUICK, rollback_window="30s"))
    crashes = {crash[0]: crash[1]} if crash is not None else None
    target = "<B>"
    return world.run(
        lambda w: (
            target in w.names.values()
            and w.status.stable_revision == w.name("B")
            and w.status.warm is None
            and not w.status.retiring
            and w.programmed == w.actual
        ),
        crashes=crashes,
    )


def roll_back(world: World, crash: tuple[int, int] | None) -> int:
    serving(world)
    world.edit(make_spec("two", steps=QUICK, rollback_window="30s"))
    world.run(lambda w: w.status.step is not None and w.status.step.index == 2)
    world.say("rollback/1")
    return world.run(
        lambda w: (
            w.status.canary_revision is None
            and not w.status.retiring
            and w.command is None
            and w.programmed == w.actual
        ),
        crashes={crash[0]: crash[1]} if crash is not None else None,
    )


@pytest.mark.parametrize("play", [roll_out, roll_back])
def test_the_end_is_the_same_after_a_crash_at_each_write(
    play: Callable[[World, tuple[int, int] | None], int],
) -> None:
    calm = quick_world()
    rounds = play(calm, None)
    expected = end_of(calm)
    for at_round in range(rounds):
        for writes in range(6):
            world = quick_world()
            play(world, (at_round, writes))
            assert end_of(world) == expected, f"crash in round {at_round} after write {writes}"
            assert world.failed == 0
            if world.life == calm.life:
                break  # the round has no such write, and none after it: nothing crashed


def test_a_rollback_after_promotion_survives_a_crash_at_each_write() -> None:
    def play(crash: int | None) -> World:
        world = serving(quick_world())
        world.edit(make_spec("two", steps=QUICK, rollback_window="30s"))
        world.run(lambda w: w.status.warm is not None)
        world.say("rollback/1")
        world.round(crash)
        return at_rest(world)

    expected = end_of(play(None))
    for crash in range(8):
        assert end_of(play(crash)) == expected
