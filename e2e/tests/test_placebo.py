"""The placebo on the cluster: stable workers judged as pretended canaries, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from e2e.harness.faults import leader
from e2e.harness.kube import eventually
from e2e.harness.scenario import Chat, canary

if TYPE_CHECKING:
    from e2e.environment import Environment

WORKERS = 3
SPEED = {"FAKE_ENGINE_TTFT_MS": "60", "FAKE_ENGINE_TPOT_MS": "6", "FAKE_ENGINE_JITTER": "0.1"}


@pytest.mark.timeout(240)
def test_the_placebo_tells_how_often_the_gate_fires_on_workers_of_one_revision(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    # Given three stable workers with users, and a gate that is asked to judge itself.
    given = chat(
        replicas=WORKERS,
        steps=[canary("5%", "30m", 1)],
        gates={"latency": {"mode": "Enforce", "placebo": True}},
        env=SPEED,
    ).serving("v1")
    old = given.stable
    with given.traffic(rate=30) as load:
        # When a canary is compared,
        given.applied("v2")
        new = given.canary()
        # then each stable worker was a pretended canary, and the test did not fire on any:
        message = f"the same test fired in 0 of {WORKERS} stages of single stable workers"
        told = given.sees("the placebo's result", lambda s: message in _latency_gate(s), 120)
        # in status and in explain,
        assert message in " ".join(given.command("explain").split())
        # in the operator's metrics,
        stages, firings = eventually("metrics", lambda: _metrics(environment, given), 20)
        assert (stages, firings) == (WORKERS, 0)
        tally = load.stop()
    # and it decides nothing.
    assert (told["stableRevision"], told["canaryRevision"]) == (old, new)
    assert not tally.failures, tally.explain()


def _latency_gate(status: dict[str, object]) -> str:
    gates = status.get("gates")
    assert isinstance(gates, list | None)
    return next((g["message"] for g in gates or [] if g["name"] == "latency"), "")


def _metrics(environment: Environment, given: Chat) -> tuple[float, float]:
    """How many stages and firings the leader counts for this deployment."""
    leading, _ = leader(environment.kube, environment.system)
    address = f"http://{leading['status']['podIP']}:8080/metrics"
    answer = urllib3.request("GET", address, timeout=5.0, retries=False)
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.data.decode())
        for sample in family.samples
        if "_placebo_" in sample.name
        and sample.labels == {"namespace": given.namespace, "name": given.name}
    }
    return found["llmrollouts_placebo_stages"], found["llmrollouts_placebo_firings"]
