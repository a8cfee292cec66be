"""A person sends everyone back, in every phase of a rollout (R16)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.harness.scenario import Chat, canary, shadow

STEPS = [shadow("20%", "10m"), canary("10%", "10m"), canary("50%", "10m")]


def _reach(given: Chat, phase: str) -> str:
    """Bring a rollout of v2 into the phase; the canary's name."""
    given.applied("v2")
    new = given.canary()
    if phase == "starting":
        return new
    given.in_step(0)
    for index in range(
        {"shadow": 0, "first canary": 1, "half": 2, "paused": 2, "promoted": 2}[phase]
    ):
        given.command("skip")
        given.in_step(index + 1)
    if phase == "paused":
        given.command("pause")
    if phase == "promoted":
        given.command("skip")
        given.promoted(new)
    return new


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "phase", ["starting", "shadow", "first canary", "half", "paused", "promoted"]
)
def test_rollback_takes_every_user_back(chat: Callable[..., Chat], phase: str) -> None:
    given = chat(steps=STEPS, rollback_window="10m").serving("v1")
    old = given.stable
    with given.traffic(rate=40) as load:
        new = _reach(given, phase)
        load.wait_for(60)
        before = given.restarts()
        asked = time.time()
        said = given.command("rollback")
        answered = time.time()
        given.back_on(old)
        load.wait_for(120)
        tally = load.stop()

    assert not tally.failures, tally.explain()
    assert not tally.cut, tally.explain()
    if phase in {"first canary", "half", "paused", "promoted"}:
        assert tally.between(0, asked).of(new), "the canary never had users"
    assert tally.between(answered).share(old) == 1, "a request went to the canary afterwards"
    status = given.status
    assert status["lastRollback"]["revision"] == new
    assert status["lastRollback"]["to"] == old
    assert new in said
    condition = given.condition("Ready")
    assert condition is not None
    assert "retry" in status["message"], status["message"]
    now = given.restarts()
    assert all(now.get(name, count) == count for name, count in before.items())

    # A rejected revision is held (R04): nothing starts it again by itself.
    time.sleep(3)
    assert not given.status.get("canaryRevision")


@pytest.mark.timeout(240)
def test_rollback_with_nothing_to_roll_back_says_so_and_changes_nothing(
    chat: Callable[..., Chat],
) -> None:
    """R04."""
    given = chat().serving("v1")
    before = given.stable
    given.annotate("rollback")
    taken = given.sees("the command taken in", lambda s: s.get("command"))
    assert taken["command"]["result"] == "Refused"
    assert taken["stableRevision"] == before
    assert taken["phase"] == "Serving"


@pytest.mark.timeout(300)
def test_a_rejected_revision_comes_back_only_by_retry(chat: Callable[..., Chat]) -> None:
    given = chat(steps=STEPS).serving("v1")
    new = _reach(given, "shadow")
    given.command("rollback")
    given.sees("held", lambda s: s.get("phase") == "Degraded")
    given.applied("v2")
    time.sleep(3)
    assert not given.status.get("canaryRevision")
    given.command("retry")
    assert given.canary() == new
    given.in_step(0)
