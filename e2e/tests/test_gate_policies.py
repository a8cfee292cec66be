"""Gates that make no sense: refused at apply, in words that mend them; users notice nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from e2e.harness.kube import Json
from e2e.harness.scenario import Chat, canary

GATE: Json = {
    "name": "cost",
    "address": "http://prometheus.monitoring.svc:9090",
    "query": 'sum(cost{revision="{{revision}}"})',
    "limit": {"max": "0.25"},
}
SENSIBLE: Json = {
    "objectives": {
        "ttftP99": "350ms",
        "e2eP99": "30s",
        "errorRate": "0.2%",
        "margin": "10%",
        "promotionMargin": "25%",
    },
    "gates": {"latency": {"mode": "Enforce"}, "prometheus": [GATE]},
    "strategy": {
        "errorBudget": "1%",
        "steps": [{"canary": {"share": "1%", "duration": "1m", "deadline": "1h"}}],
    },
}
# What is wrong with it; where; with what; what the answer must say.
REFUSED: list[tuple[str, str, object, str]] = [
    ("a negative margin", "objectives.margin", "-5%", "a margin is a percentage that is not neg"),
    ("a margin without %", "objectives.margin", "5", "with the percent sign"),
    ("a limit below the smallest bucket", "objectives.ttftP99", "50us", "0.1ms, the smallest"),
    ("a limit of nothing", "objectives.tpotP99", "0s", "0.1ms, the smallest"),
    ("a limit above the largest bucket", "objectives.e2eP99", "3m", "2m"),
    ("first tokens after the end", "objectives.e2eP99", "300ms", "no answer ends before it begins"),
    ("margins that cross", "objectives.margin", "25%", "promotionMargin lies above margin"),
    ("a proof below the default margin", "objectives", {"promotionMargin": "8%"}, "10% where mar"),
    ("half of the requests may fail", "objectives.errorRate", "50%", "below 50%"),
    ("no error budget", "strategy.errorBudget", "0%", "errorBudget"),
    (
        "a deadline before the end",
        "strategy.steps",
        [{"canary": {"share": "1%", "duration": "10m", "deadline": "5m"}}],
        "is not before its duration",
    ),
    (
        "a gate without a bound",
        "gates.prometheus",
        [{key: value for key, value in GATE.items() if key != "limit"}],
        "exactly one of limit and compare",
    ),
    (
        "a limit that is no number",
        "gates.prometheus",
        [{**GATE, "limit": {"max": "NaN"}}],
        "a limit is a number in quotes",
    ),
    (
        "a query for nobody",
        "gates.prometheus",
        [{**GATE, "query": "sum(cost{pod='{{pod}}'})"}],
        "{{revision}}, {{namespace}} and {{name}}",
    ),
]


def _with(manifest: Json, where: str, what: object) -> Json:
    """The manifest with sensible gates, but for one field of its spec."""
    spec: Json = {**manifest["spec"]}
    for part, settings in SENSIBLE.items():
        spec[part] = {**settings}
    part, _, name = where.partition(".")
    if name:
        spec[part] = {**spec[part], name: what}
    else:
        spec[part] = what
    return {**manifest, "spec": spec}


@pytest.mark.timeout(120)
def test_a_policy_that_makes_no_sense_is_refused_with_advice_and_changes_nothing(
    chat: Callable[..., Chat],
) -> None:
    # Given a deployment with users, and that a policy without a mistake would be taken.
    given = chat(replicas=1, steps=[canary("5%", "30m", 1)]).serving("v1")
    before = given.resource
    assert before is not None
    sensible = _with(given.manifest(), "objectives.margin", "10%")
    with given.traffic(rate=20) as load:
        load.wait_for(20)
        taken = given.kube.kubectl(
            "apply", "--dry-run=server", "-f", "-", given=json.dumps(sensible)
        )
        assert "configured (server dry run)" in taken
        # When somebody applies one with a mistake, then the answer says how to mend it.
        for what, where, value, expected in REFUSED:
            said = given.kube.try_apply(_with(given.manifest("v2"), where, value))
            assert expected in said, f"{what}: {said[:800]}"
            assert "configured" not in said, what
        # And the deployment is as it was, and its users did not notice.
        load.wait_for(20)
        tally = load.stop()
    after = given.resource
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["status"]["phase"] == "Serving"
    assert not tally.failures, tally.explain()
    assert set(tally.by_revision) == {given.stable}
