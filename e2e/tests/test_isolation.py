"""Many deployments beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.environment import Environment
from e2e.harness.namespaces import make_anew
from e2e.harness.scenario import Chat, canary


@pytest.fixture
def elsewhere(environment: Environment, namespace: str) -> Iterator[str]:
    name = f"{namespace[:50]}-b"
    make_anew(environment.kube, name)
    yield name
    environment.kube.kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.timeout(240)
def test_the_same_name_in_two_namespaces_never_mixes(
    chat: Callable[..., Chat], elsewhere: str
) -> None:
    here, there = chat(replicas=1), chat(replicas=1, namespace=elsewhere)
    here.steps = [canary("50%", "20m", 1)]
    here.serving("v1")
    there.serving("v2")
    there_only = there.stable
    here.applied("v2")
    here.canary()
    here.in_step(0)
    with here.traffic(rate=30, requests=300) as one, there.traffic(rate=30, requests=300) as two:
        tallies = one.wait(60), two.wait(60)
    assert not tallies[0].failures, tallies[0].explain()
    assert set(tallies[1].by_revision) == {there_only}
    pods_here = {p["status"]["podIP"] for p in here.pods()}
    pods_there = {p["status"]["podIP"] for p in there.pods()}
    assert not pods_here & pods_there


@pytest.mark.timeout(300)
def test_idle_deployments_beside_one_that_rolls_out(chat: Callable[..., Chat]) -> None:
    """The short form of bench/idle.py, which has 1,000."""
    idle = [chat(name=f"idle-{number}", replicas=1) for number in range(6)]
    idle[0].kube.apply(*(one.manifest("v1") for one in idle))
    for one in idle:
        one.sees("serving", lambda s: s.get("phase") == "Serving", 120)
    given = chat(replicas=1, steps=[canary("50%", "3s", 1)]).serving("v1")
    before = {one.name: (one.resource or {})["metadata"]["resourceVersion"] for one in idle}
    with given.traffic(rate=30) as load:
        given.applied("v2")
        given.promoted(given.canary())
        tally = load.stop()
    assert not tally.failures, tally.explain()
    after = {one.name: (one.resource or {})["metadata"]["resourceVersion"] for one in idle}
    assert after == before, "idle deployments were written to"
