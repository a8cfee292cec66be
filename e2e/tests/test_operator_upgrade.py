"""A newer operator takes over in mid-rollout."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.environment import Environment
from e2e.harness.scenario import Chat, canary


@pytest.mark.alone
@pytest.mark.timeout(420)
def test_an_operator_that_renders_another_template_restarts_no_worker(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    given = chat(replicas=1, steps=[canary("50%", "20m", 1)]).serving("v1")
    given.applied("v2")
    new = given.canary()
    given.in_step(0)
    before = {pod["metadata"]["uid"] for pod in given.pods()}
    with given.traffic(rate=30) as load:
        with environment.another_operator():
            given.sees(
                "the rollout under the other operator", lambda s: s.get("canaryRevision") == new
            )
            load.wait_for(300)
            assert {pod["metadata"]["uid"] for pod in given.pods()} == before
        load.wait_for(100)
        tally = load.stop()
    assert not tally.failures, tally.explain()
    assert {pod["metadata"]["uid"] for pod in given.pods()} == before
    assert all(count == 0 for count in given.restarts().values())
