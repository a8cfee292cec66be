"""Gates from a real Prometheus that scrapes the workers, asked by the operator on the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.environment import PROMETHEUS, Environment, values_for
from e2e.harness.kube import Json
from e2e.harness.prometheus import RealPrometheus, make_secret
from e2e.harness.scenario import Chat, canary
from e2e.install import render_chart

AUTH = {
    "basicAuth": {
        "usernameSecretKeyRef": {"name": "prometheus", "key": "user"},
        "passwordSecretKeyRef": {"name": "prometheus", "key": "password"},
    }
}
WORKERS = '{namespace="{{namespace}}", pod=~"{{name}}-{{revision}}-.+"}'
TOKENS_PER_ANSWER = (
    f"sum(rate(vllm:generation_tokens_total{WORKERS}[20s]))"
    f" / sum(rate(vllm:request_success_total{WORKERS}[20s]))"
)


def _gate(query: str, **bound: Json) -> Json:
    """Asked every ten seconds, which is the shortest; the first answer decides."""
    return {
        "name": "answers",
        "address": PROMETHEUS,
        "query": query,
        "interval": "10s",
        "timeout": "5s",
        "failuresForFailed": 1,
        "maxErrors": 1,
        "auth": AUTH,
        **bound,
    }


@pytest.fixture
def may_read_secrets(environment: Environment, namespace: str) -> Iterator[None]:
    """What the chart makes of rbac.prometheusSecretsIn, for the test's namespace alone."""
    values = {**values_for(environment.images), "rbac": {"prometheusSecretsIn": [namespace]}}
    rights = [
        {**found, "metadata": {k: v for k, v in found["metadata"].items() if k != "labels"}}
        for found in render_chart(values, environment.system)
        if found["metadata"]["name"] == "llm-rollouts-prometheus-secrets"
    ]
    assert {each["kind"] for each in rights} == {"ClusterRole", "RoleBinding"}
    environment.kube.apply(*rights, make_secret(namespace, "prometheus"))
    yield
    environment.kube.kubectl("delete", "clusterrole", "llm-rollouts-prometheus-secrets")


@pytest.fixture
def prometheus(
    environment: Environment, namespace: str, tmp_path: Path
) -> Iterator[RealPrometheus]:
    with RealPrometheus(environment.kube, namespace, tmp_path) as running:
        yield running


def _verdict(status: Json, gate: str = "prometheus/answers") -> Json:
    return next((g for g in status.get("gates", []) if g["name"] == gate), {})


def _says(verdict: str, reason: str) -> Callable[[Json], object]:
    def holds(status: Json) -> bool:
        found = _verdict(status)
        return (found.get("verdict"), found.get("reason")) == (verdict, reason)

    return holds


@pytest.mark.prometheus
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("may_read_secrets")
def test_a_gate_goes_on_or_back_as_prometheus_says_and_waits_while_it_says_nothing(
    chat: Callable[..., Chat], prometheus: RealPrometheus
) -> None:
    # Given four deployments with users, each with a gate of its own from one Prometheus.
    last = {"everyone": "100%"}
    gates = {
        "kept": _gate(TOKENS_PER_ANSWER, compare={"maxRatio": "1.5"}),
        "everyone": _gate(TOKENS_PER_ANSWER, compare={"maxRatio": "1.5"}),
        "broken": _gate(TOKENS_PER_ANSWER, limit={"max": "2"}),
        "mistyped": _gate(TOKENS_PER_ANSWER.replace("))", ")"), limit={"max": "100"}),
    }
    given = {
        name: chat(
            name=name,
            replicas=1,
            steps=[canary("20%", "1s", 1), canary(last.get(name, "50%"), "30m", 1)],
            gates={"prometheus": [gate]},
        )
        for name, gate in gates.items()
    }
    kept, everyone, broken, mistyped = given.values()
    for each in given.values():
        each.applied("v1")
    with ExitStack() as stack:
        loads = {}
        for name, each in given.items():
            each.serving("v1")
            loads[name] = stack.enter_context(each.traffic(rate=5))
        old = broken.stable

        # When each gets a new revision, then the one within its bound goes on to its next step,
        for each in given.values():
            each.applied("v2")
        new = kept.canary()
        kept.in_step(1)
        # the one beyond its bound goes back, and a person understands why,
        rejected = broken.sees("rolled back", lambda s: s.get("lastRollback"))["lastRollback"]
        assert (rejected["reason"], rejected["rejects"]) == ("GateFailed", True)
        assert "prometheus/answers" in rejected["message"]
        assert rejected["message"].endswith("allowed is at most 2")
        assert rejected["firstSeenAt"] <= rejected["detectedAt"] <= rejected["decidedAt"]
        broken.back_on(old)
        # and the one with a query that does not parse waits and says where.
        held = mistyped.sees("an error", _says("Error", "QueryInvalid"))
        assert "parse error: unclosed left parenthesis" in _verdict(held)["message"]
        _is_held(held, new)

        passed = kept.sees("within its bound", _says("Passed", "WithinLimit"))
        assert "allowed is at most 1.5" in _verdict(passed)["message"]
        # Where every user is on the new revision, nobody is left to compare it with.
        everyone.in_step(1)
        everyone.sees("a comparison at rest", _says("Passed", "ComparisonRests"))

        # When the query is mended but Prometheus is away, then nothing goes on or back,
        prometheus.stop()
        mistyped.gates = {"prometheus": [_gate(TOKENS_PER_ANSWER, limit={"max": "100"})]}
        mistyped.applied("v2")
        held = mistyped.sees("another error", _says("Error", "NotReached"))
        assert "connection refused" in held["message"]
        _is_held(held, new)
        # until it is back.
        prometheus.start()
        mistyped.in_step(1)
        tallies = {name: load.stop() for name, load in loads.items()}
    for name, tally in tallies.items():
        assert not tally.failures, f"{name}: {tally.explain()}"
    assert not kept.status.get("lastRollback")
    moved = everyone.status
    assert (moved["share"], moved.get("lastRollback")) == ("100%", None)
    assert "prometheus/answers" not in moved["message"]
    assert not mistyped.status.get("lastRollback")


def _is_held(status: Json, canary_revision: str) -> None:
    assert status["canaryRevision"] == canary_revision
    assert (status["step"]["index"], status["share"]) == (0, "20%")
    assert "prometheus/answers: Error" in status["message"]
