"""What a change of the spec does: the rows of the table in the design."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from e2e.harness.faults import all_frozen, operator_pods
from e2e.harness.kube import eventually
from e2e.harness.scenario import Chat, canary, shadow

if TYPE_CHECKING:
    from e2e.environment import Environment

LONG = [shadow("20%", "10m"), canary("10%", "10m"), canary("50%", "10m")]


def _halfway(given: Chat) -> tuple[str, str]:
    """v1 stable, v2 at 10 % of the users."""
    given.serving("v1")
    old = given.stable
    given.applied("v2")
    new = given.canary()
    given.in_step(0)
    given.command("skip")
    given.in_step(1)
    return old, new


@pytest.mark.timeout(240)
def test_a_new_revision_in_mid_rollout_replaces_the_canary(chat: Callable[..., Chat]) -> None:
    """R03 and R10: the share is 0 first, then the old canary's workers go."""
    given = chat(steps=LONG)
    old, second = _halfway(given)
    with given.traffic(rate=40) as load:
        load.wait_for(80)
        given.applied("v2", prompt={"chatTemplate": "{{ messages[0]['content'] }}"})
        third = str(
            given.sees(
                "another canary", lambda s: s.get("canaryRevision") not in (None, second) and s
            )["canaryRevision"]
        )
        given.in_step(0)
        eventually("the second revision's pods gone", lambda: not given.pods(second), 60)
        load.wait_for(80)
        tally = load.stop()
    assert not tally.failures, tally.explain()
    assert not tally.cut, tally.explain()
    assert set(tally.by_revision) <= {old, second}
    assert third not in tally.by_revision
    assert given.stable == old


@pytest.mark.timeout(240)
def test_reverting_the_spec_touches_no_stable_pod(chat: Callable[..., Chat]) -> None:
    """R27."""
    given = chat(steps=LONG)
    old, new = _halfway(given)
    before = {pod["metadata"]["uid"] for pod in given.pods(old)}
    with given.traffic(rate=40) as load:
        load.wait_for(60)
        given.applied("v1")
        given.back_on(old)
        eventually("the canary's pods gone", lambda: not given.pods(new), 60)
        load.wait_for(60)
        tally = load.stop()
    assert not tally.failures, tally.explain()
    assert {pod["metadata"]["uid"] for pod in given.pods(old)} == before
    assert given.status["phase"] == "Serving"


@pytest.mark.timeout(240)
def test_editing_replicas_rescales_both_arms_and_keeps_the_step(chat: Callable[..., Chat]) -> None:
    given = chat(steps=LONG)
    old, new = _halfway(given)
    given.kube.kubectl("scale", "llmd", given.name, "-n", given.namespace, "--replicas=4")
    eventually("four stable workers", lambda: len(given.pods(old)) == 4, 60)
    status = given.status
    assert status["canaryRevision"] == new
    assert status["step"]["index"] == 1


@pytest.mark.timeout(240)
def test_editing_the_steps_never_raises_the_running_share(chat: Callable[..., Chat]) -> None:
    given = chat(steps=LONG)
    _, new = _halfway(given)
    given.steps = [shadow("20%", "10m"), canary("5%", "10m"), canary("40%", "10m")]
    given.applied("v2")
    status = given.sees("clamped", lambda s: s.get("share") == "5%" and s)
    assert status["canaryRevision"] == new
    assert status["step"]["index"] == 1


@pytest.mark.timeout(300)
def test_a_config_map_edited_in_place_starts_nothing_until_refresh(
    chat: Callable[..., Chat],
) -> None:
    given = chat(steps=LONG)
    reference = {"prompt": {"configMapKeyRef": {"name": "prompts", "key": "chat"}}}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "prompts", "namespace": given.namespace},
        "data": {"chat": "{{ messages[0]['content'] }}"},
    }
    given.kube.apply(config_map)
    given.applied("v1", **reference)
    given.sees("serving", lambda s: s.get("phase") == "Serving", 90)
    old = given.stable
    given.kube.apply({**config_map, "data": {"chat": "Be brief. {{ messages[0]['content'] }}"}})
    # Nothing watches a user's ConfigMap: the next round of any cause notices it.
    given.kube.kubectl("label", "llmd", given.name, "-n", given.namespace, "touched=1")
    eventually(
        "SourceChanged",
        lambda: (given.condition("SourceChanged") or {}).get("status") == "True",
        30,
    )
    assert not given.status.get("canaryRevision")
    given.command("refresh")
    assert given.canary() != old


@pytest.mark.timeout(240)
def test_deletion_in_mid_rollout_leaves_nothing_behind(chat: Callable[..., Chat]) -> None:
    given = chat(steps=LONG)
    _halfway(given)
    given.deleted()
    with given.traffic(rate=20, requests=10) as load:
        gone = load.wait(60)
    assert all(o.status == 404 for o in gone.outcomes), gone.explain()


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_deletion_with_the_operator_down_leaves_nothing_behind(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    given = chat(steps=LONG)
    _halfway(given)
    with all_frozen(operator_pods(environment.kube, environment.system)):
        # No finalizer waits for the operator: the cluster's own garbage collector cleans up.
        given.deleted(timeout=100)

    def is_forgotten() -> bool:
        with given.traffic(rate=20, requests=10) as load:
            return all(o.status == 404 for o in load.wait(60).outcomes)

    eventually("the gateways have forgotten it", is_forgotten, 60)


@pytest.mark.timeout(240)
def test_a_failed_first_revision_is_left_by_a_new_spec(chat: Callable[..., Chat]) -> None:
    """R10: a wedged first revision never blocks its own fix."""
    given = chat()
    given.applied("nosuchmodel")
    failed = given.sees("failed", lambda s: s.get("phase") == "Failed", 120)
    assert "nosuchmodel" in failed["message"], failed["message"]
    given.applied("v1")
    given.sees("serving", lambda s: s.get("phase") == "Serving", 90)


@pytest.mark.timeout(300)
def test_a_canary_that_cannot_start_is_failed_and_users_never_met_it(
    chat: Callable[..., Chat],
) -> None:
    given = chat(steps=LONG).serving("v1")
    old = given.stable
    with given.traffic(rate=20) as load:
        given.applied("nosuchmodel")
        rejected = given.sees("rejected", lambda s: s.get("lastRollback") and s, 150)
        tally = load.stop()
    assert "nosuchmodel" in str(rejected["lastRollback"]["message"])
    assert set(tally.by_revision) == {old}
    assert not tally.failures, tally.explain()


@pytest.mark.timeout(240)
def test_after_promotion_the_old_revision_is_warm_and_then_retired(
    chat: Callable[..., Chat],
) -> None:
    given = chat(steps=[canary("50%", "3s", 1)], rollback_window="8s").serving("v1")
    old = given.stable
    with given.traffic(rate=30) as load:
        given.applied("v2")
        new = given.canary()
        given.promoted(new)
        assert given.status["warm"]["revision"] == old
        assert len(given.pods(old)) == given.replicas
        eventually("the old revision's pods gone", lambda: not given.pods(old), 90)
        time.sleep(1)
        tally = load.stop()
    assert not tally.failures, tally.explain()
    assert not tally.cut, tally.explain()
    assert given.status["phase"] == "Serving"
