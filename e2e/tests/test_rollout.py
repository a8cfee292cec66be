"""One LLMDeployment goes from apply to 100 %, and its users notice nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.harness.kube import Json
from e2e.harness.scenario import Chat, canary, shadow
from e2e.harness.traffic import is_plausible, within_three_sigma


@pytest.mark.timeout(420)
def test_a_rollout_reaches_everyone_without_one_failed_request(chat: Callable[..., Chat]) -> None:
    """The short form of bench/rollout_requests.py, which sends 100,000."""
    steps = [
        shadow("20%", "12s"),
        canary("0.5%", "30s", 3),
        canary("5%", "30s", 20),
        canary("50%", "10s", 50),
    ]
    given = chat(replicas=2, steps=steps, rollback_window="10s").serving("v1")
    old = given.stable
    with given.traffic(rate=80) as load:
        load.wait_for(200)
        given.applied("v2")
        new = given.canary()
        began: dict[int, float] = {}
        left: dict[int, float] = {}
        for index in range(len(steps)):
            status = given.in_step(index, timeout=150)
            began[index] = time.time()
            left[index - 1] = given.decided_at(status)
        left[len(steps) - 1] = given.steps_ended_at(given.promoted(new))
        promoted = time.time()
        load.wait_for(200)
        tally = load.stop()

    assert not tally.failures, tally.explain()
    assert not tally.cut, tally.explain()
    assert set(tally.by_revision) == {old, new}

    before_users = tally.between(0, began[0])
    assert before_users.share(new) == 0
    for index, wanted in ((1, 0.005), (2, 0.05), (3, 0.5)):
        # From when the step was seen running until the operator decided to leave it.
        stretch = tally.between(began[index], left[index])
        assert is_plausible(len(stretch.of(new)), wanted, len(stretch)), (
            f"step {index}: {stretch.share(new):.4f} of {len(stretch)} instead of {wanted}"
        )
    after = tally.between(promoted)
    assert len(after) > 100
    assert after.share(new) == 1, "requests flickered back after the promotion"


def _fraction(text: str | None) -> float:
    return float((text or "0%").rstrip("%")) / 100


@pytest.mark.timeout(240)
def test_mirrored_answers_never_reach_users_and_fill_the_canary(chat: Callable[..., Chat]) -> None:
    given = chat(replicas=2, steps=[shadow("30%", "10m"), canary("5%", "10m")]).serving("v1")
    old = given.stable
    with given.traffic(rate=60) as load:
        given.applied("v2")
        new = given.canary()
        given.in_step(0)
        began = time.time()
        load.wait_for(600)
        shadowed = load.so_far().between(began)
        # The status carries what the gateways measured once every ten seconds.
        given.sees(
            "a third of the requests mirrored",
            lambda s: within_three_sigma(_fraction(s["measuredShadowShare"]), 0.30, 500),
            40,
        )
        given.command("skip")
        given.in_step(1)

        def is_filled(status: Json) -> bool:
            """Each canary worker as busy as a stable one: within 15 %, and what chance adds."""
            live = _fraction(status["measuredShare"])
            canary_worker = live + _fraction(status["measuredShadowShare"])
            stable_worker = (1 - live) / 2
            return abs(canary_worker - stable_worker) / stable_worker < 0.15 + 0.12

        given.sees("the canary filled up to a stable worker's load", is_filled, 60)
        tally = load.stop()

    assert set(shadowed.by_revision) == {old}, "a mirrored answer reached a user"
    assert not tally.failures, tally.explain()
    assert new in {pod["metadata"]["labels"]["llmrollouts.dev/revision"] for pod in given.pods()}


@pytest.mark.timeout(240)
def test_a_request_can_be_pinned_to_a_living_revision(chat: Callable[..., Chat]) -> None:
    given = chat(steps=[shadow("10%", "10m")]).serving("v1")
    given.applied("v2")
    new = given.canary()
    given.in_step(0, timeout=90)
    with given.traffic(rate=20, requests=60, pin=new) as load:
        pinned = load.wait(60)
    assert set(pinned.by_revision) == {new}
    with given.traffic(rate=20, requests=10, pin="nosuchrev0") as load:
        unknown = load.wait(60)
    assert all(o.status == 404 for o in unknown.outcomes)
    assert "nosuchrev0" in unknown.outcomes[0].detail or "revision" in unknown.outcomes[0].detail
