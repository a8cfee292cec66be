"""Real vLLM in real pods: it starts, serves, is drained, rolled out and rolled back.

Two vLLM processes on two shared cores disturb each other, so no latency is ever judged here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.environment import build_images
from e2e.harness.kube import eventually
from e2e.harness.scenario import Chat, canary, shadow

START = 420.0  # seconds: two vLLM processes that start on two busy cores
RESOURCES = {"requests": {"cpu": "200m", "memory": "3Gi"}, "limits": {"memory": "6Gi"}}


@pytest.mark.alone
@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_real_vllm_is_rolled_out_drained_and_rolled_back(chat: Callable[..., Chat]) -> None:
    image = build_images(["vllm-cpu"])["vllm-cpu"]
    steps = [shadow("20%", "5s", 3), canary("50%", "10s", 5)]
    given = chat(
        image=image,
        replicas=1,
        steps=steps,
        rollback_window="20m",
        resources=RESOURCES,
        extra_args=["--enforce-eager"],
    ).serving("v1", timeout=START)
    old = given.stable
    with given.traffic(rate=4) as load:
        load.wait_for(20, timeout=120)
        given.applied("v2")
        new = given.canary()
        given.in_step(0, timeout=START)
        given.in_step(1, timeout=120)
        given.promoted(new, timeout=180)
        load.wait_for(40, timeout=120)

        # One worker of the serving revision is replaced under load: drained, no stream cut.
        before = {pod["metadata"]["uid"] for pod in given.pods(new)}
        asked = time.time()
        given.command("rollback")
        given.back_on(old)
        load.wait_for(40, timeout=120)
        eventually(
            "the rejected revision's workers gone",
            lambda: not before & {p["metadata"]["uid"] for p in given.pods(new)},
            180,
        )
        tally = load.stop()

    assert not tally.failures, tally.explain()
    assert not tally.cut, tally.explain()
    assert tally.of(new), "version 2 never served a user"
    back = tally.between(asked + 5)
    assert back.share(old) == 1
    assert all(count == 0 for count in given.restarts().values())
