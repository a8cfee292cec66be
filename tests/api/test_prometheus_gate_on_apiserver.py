"""Gates from Prometheus, as a real API server takes or refuses them at ``kubectl apply``."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.api.manifests import Applier, make_manifest, spec
from tests.apiserver import REPOSITORY, ApiServer

pytestmark = pytest.mark.apiserver

SECRET = {"name": "prom", "key": "token"}
BASIC = {"usernameSecretKeyRef": SECRET, "passwordSecretKeyRef": SECRET}


@pytest.fixture
def applier(apiserver: ApiServer, namespace: str) -> Applier:
    return Applier(apiserver, namespace)


def make_gate(**given: Any) -> dict[str, Any]:
    gate = {
        "name": "cost",
        "address": "https://prom.example:9090/tenant",
        "query": 'sum(cost{revision="{{revision}}",namespace="{{namespace}}"})',
        "limit": {"max": "0.25"},
        **given,
    }
    return {key: value for key, value in gate.items() if value is not None}


def apply(applier: Applier, *gates: dict[str, Any]) -> tuple[int, str]:
    answer = applier.try_create(make_manifest(spec(gates={"prometheus": list(gates)})))
    return answer.status, answer.message


@pytest.mark.parametrize(
    "gate",
    [
        make_gate(),
        make_gate(limit={"min": "-1e-6"}),
        make_gate(limit=None, compare={"maxRatio": "1.2"}),
        make_gate(limit=None, compare={"minRatio": "0.8"}),
        make_gate(address="http://[fd00::1]:9090"),
        make_gate(interval="10s", timeout="10s", maxAge="24h", maxErrors=1, failuresForFailed=1),
        make_gate(auth={"bearerTokenSecretKeyRef": SECRET, "tls": {"caSecretKeyRef": SECRET}}),
        make_gate(
            auth={
                "basicAuth": BASIC,
                "tls": {"certSecretKeyRef": SECRET, "keySecretKeyRef": SECRET},
            }
        ),
        make_gate(query="x" * 4096),
    ],
)
def test_what_makes_sense_is_taken(applier: Applier, gate: dict[str, Any]) -> None:
    assert apply(applier, gate) == (201, "")


def test_the_example_of_the_docs_is_taken(applier: Applier) -> None:
    page = (REPOSITORY / "docs" / "prometheus-gates.md").read_text(encoding="utf-8")
    example = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    gates = example["spec"]["gates"]["prometheus"]
    assert len(gates) == 2
    assert apply(applier, *gates) == (201, "")
    auth = yaml.safe_load(page.split("```yaml\n")[2].split("```")[0].replace("# or:", ""))["auth"]
    bearer = {"bearerTokenSecretKeyRef": auth.pop("bearerTokenSecretKeyRef"), "tls": auth["tls"]}
    assert apply(applier, make_gate(auth=auth), make_gate(name="b", auth=bearer)) == (201, "")


def test_sixteen_gates_are_taken_and_seventeen_are_not(applier: Applier) -> None:
    gates = [make_gate(name=f"g{number}") for number in range(17)]
    assert apply(applier, *gates[:16])[0] == 201
    assert apply(applier, *gates)[0] == 422


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (make_gate(limit=None), "exactly one of limit and compare"),
        (make_gate(compare={"maxRatio": "1.2"}), "exactly one of limit and compare"),
        (make_gate(limit={}), "a limit is either max or min"),
        (make_gate(limit={"max": "1", "min": "0"}), "a limit is either max or min"),
        (make_gate(limit={"max": "a lot"}), "a limit is a number in quotes"),
        (make_gate(limit={"max": "NaN"}), "a limit is a number in quotes"),
        (make_gate(limit=None, compare={}), "either maxRatio or minRatio"),
        (make_gate(limit=None, compare={"maxRatio": "0"}), "a ratio is a number above 0"),
        (make_gate(limit=None, compare={"maxRatio": "-1"}), "a ratio is a number above 0"),
        (
            make_gate(limit=None, compare={"maxRatio": "1.2"}, query="cost"),
            "name {{revision}} in it",
        ),
        (make_gate(query='x{r="{{ revision }}"}'), "without spaces"),
        (make_gate(query='x{r="{{pod}}"}'), "placeholders"),
        (make_gate(query="  "), "give a PromQL expression"),
        (make_gate(query="x" * 4097), "4096"),
        (make_gate(address="prom.example"), "an address is http:// or https://"),
        (make_gate(address="ftp://prom.example"), "an address is http:// or https://"),
        (make_gate(address="https://me:word@prom.example"), "credentials belong into auth"),
        (make_gate(address="https://prom.example?x=1"), "an address is http:// or https://"),
        (make_gate(address="https://prom.example/a/../b"), "remove the .."),
        (make_gate(interval="9s"), "between 10s and 1h"),
        (make_gate(interval="2h"), "between 10s and 1h"),
        (make_gate(interval="soon"), "a duration is written"),
        (make_gate(timeout="2m"), "between 1s and 60s"),
        (make_gate(interval="10s", timeout="20s"), "ends before the next one begins"),
        (make_gate(maxAge="1s"), "between 10s and 24h"),
        (make_gate(maxErrors=0), "maxErrors"),
        (make_gate(failuresForFailed=0), "failuresForFailed"),
        (make_gate(name="Cost"), "lower-case letters"),
        (make_gate(name="x" * 41), "40"),
        (
            make_gate(auth={"bearerTokenSecretKeyRef": SECRET, "basicAuth": BASIC}),
            "remove one of the two",
        ),
        (make_gate(auth={"tls": {"certSecretKeyRef": SECRET}}), "needs its key"),
        (
            make_gate(address="http://prom.example", auth={"tls": {"caSecretKeyRef": SECRET}}),
            "https:// addresses only",
        ),
        (
            make_gate(auth={"bearerTokenSecretKeyRef": {**SECRET, "namespace": "other"}}),
            "namespace",
        ),
    ],
)
def test_what_makes_none_is_refused_with_advice(
    applier: Applier, gate: dict[str, Any], message: str
) -> None:
    status, told = apply(applier, gate)
    assert status in (400, 422)
    assert message in told


def test_two_gates_of_one_name_are_refused(applier: Applier) -> None:
    assert apply(applier, make_gate(), make_gate())[0] == 422
