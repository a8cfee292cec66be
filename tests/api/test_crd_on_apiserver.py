"""The CRD on a real API server: what `kubectl apply` takes, refuses, fills in and explains."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from llmrollouts.api import engine_settings
from llmrollouts.api.deployment import read_spec
from llmrollouts.api.spec import MAX_STEPS
from tests.api.manifests import (
    COMMIT,
    Applier,
    Change,
    canary,
    engine,
    make_manifest,
    model,
    name,
    objectives,
    revision,
    shadow,
    spec,
    steps,
    variable,
)
from tests.apiserver import ApiServer

pytestmark = pytest.mark.apiserver

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

SHARE = "the share of a step is above 0% and at most 100%"
RISING = "the shares of the canary steps rise from step to step"
MARGINS = "promotionMargin lies above margin (10% where margin is not given)"
LATENCY = "a latency lies between 0.1ms, the smallest that is measured, and 2m"
RATE = "this is a percentage above 0% and below 50%"
ARGUMENT = "this argument is not allowed: use the typed field"
VARIABLE = "this variable is not allowed"

REFUSED: dict[str, tuple[Change, str]] = {
    # shares and steps
    "share 0 %": (steps(canary("0%")), SHARE),
    "share 0.0000 %": (steps(canary("0.0000%")), SHARE),
    "share 100.1 %": (steps(canary("100.1%")), SHARE),
    "share half": (steps(canary("half")), SHARE),
    "share without percent sign": (steps(canary("5")), SHARE),
    "share as a number": (steps(canary(5)), "must be of type string"),
    "share finer than 1 ppm": (steps(canary("0.00001%")), SHARE),
    "share of a shadow step 0 %": (steps(shadow("0%")), SHARE),
    "share below zero": (steps(canary("-1%")), SHARE),
    "shares that fall": (steps(canary("5%"), canary("1%")), RISING),
    "shares that stay": (steps(canary("5%"), canary("5.0%")), RISING),
    "shares that fall at the end": (steps(canary("1%"), canary("10%"), canary("9%")), RISING),
    "shadow after canary": (steps(canary("5%"), shadow("5%")), "shadow steps come before"),
    "no steps": (steps(), "give at least one step, or leave steps out"),
    "too many steps": (
        steps(*(canary(f"{n}%") for n in range(1, MAX_STEPS + 2))),
        f"must have at most {MAX_STEPS} items",
    ),
    "both kinds in one step": (steps({**shadow("5%"), **canary("5%")}), "exactly one of the two"),
    "neither kind in a step": (steps({}), "exactly one of the two"),
    "step without duration": (steps({"canary": {"share": "5%"}}), "Required value"),
    "duration 1d": (steps(canary("5%", "1d")), "a duration is written such as 30m"),
    "duration 0s": (steps(canary("5%", "0s")), "lies between 1s and 720h"),
    "duration of a year": (steps(canary("5%", "9000h")), "lies between 1s and 720h"),
    "window without end": (spec(strategy={"rollbackWindow": "721h"}), "between 0s and 720h"),
    "deadline before the duration": (
        steps({"canary": {"share": "5%", "duration": "1h", "deadline": "30m"}}),
        "the deadline of a step is not before its duration",
    ),
    "deadline of a shadow step before the duration": (
        steps({"shadow": {"share": "5%", "duration": "1h", "deadline": "59m"}}),
        "the deadline of a step is not before its duration",
    ),
    "deadline 1d": (
        steps({"canary": {"share": "5%", "duration": "1h", "deadline": "1d"}}),
        "a duration is written such as 30m",
    ),
    # objectives and gates
    "negative margin": (objectives(margin="-5%"), "a margin is a percentage that is not negative"),
    "margin without percent sign": (objectives(margin="5"), "a margin is a percentage"),
    "margin as a number": (objectives(margin=0.05), "must be of type string"),
    "margin above the promotion's": (objectives(margin="30%"), MARGINS),
    "margin equal to the promotion's": (
        objectives(margin="12%", promotionMargin="12.0%"),
        MARGINS,
    ),
    "promotion margin below the default margin": (objectives(promotionMargin="10%"), MARGINS),
    "negative promotion margin": (objectives(promotionMargin="-1%"), "a margin is a percentage"),
    "limit below what is measured": (objectives(ttftP99="0.05ms"), LATENCY),
    "limit of nothing": (objectives(tpotP99="0s"), LATENCY),
    "limit beyond what is followed": (objectives(e2eP99="121s"), LATENCY),
    "limit without unit": (objectives(ttftP99="350"), LATENCY),
    "negative limit": (objectives(ttftP99="-1s"), LATENCY),
    "first token after the end": (
        objectives(ttftP99="31s", e2eP99="30s"),
        "ttftP99 is at most e2eP99",
    ),
    "error rate of nothing": (objectives(errorRate="0%"), RATE),
    "error rate of half": (objectives(errorRate="50%"), RATE),
    "negative error rate": (objectives(errorRate="-1%"), RATE),
    "unknown objective": (objectives(p99="1s"), 'unknown field "spec.objectives.p99"'),
    "no error budget": (spec(strategy={"errorBudget": "0%"}), RATE),
    "error budget of everything": (spec(strategy={"errorBudget": "100%"}), RATE),
    "inconclusive promotes": (
        spec(strategy={"onInconclusive": "Promote"}),
        'supported values: "Hold", "Rollback"',
    ),
    "gate of another mode": (
        spec(gates={"latency": {"mode": "Warn"}}),
        'supported values: "Enforce", "Observe", "Off"',
    ),
    "placebo as text": (spec(gates={"latency": {"placebo": "yes"}}), "must be of type boolean"),
    # names
    "name of 41 characters": (name("x" * 41), "the name has at most 40 characters"),
    "name with a dot": (name("a.b"), "the name begins with a lower-case letter"),
    "name that begins with a digit": (name("9chat"), "the name begins with a lower-case letter"),
    # numbers
    "no replicas": (spec(replicas=0), "greater than or equal to 1"),
    "replicas missing": (lambda m: m["spec"].pop("replicas"), "spec.replicas: Required value"),
    "too many replicas": (spec(replicas=1001), "less than or equal to 1000"),
    "replicas as text": (spec(replicas="two"), "must be of type integer"),
    # unknown fields
    "unknown field of the spec": (spec(replcas=3), 'unknown field "spec.replcas"'),
    "unknown field of the engine": (
        engine(imgae="x"),
        'unknown field "spec.revision.engine.imgae"',
    ),
    "namespace in a reference": (
        revision(prompt={"configMapKeyRef": {"name": "a", "key": "b", "namespace": "other"}}),
        'unknown field "spec.revision.prompt.configMapKeyRef.namespace"',
    ),
    # model
    "no model": (spec(revision={}), "spec.revision.model: Required value"),
    "model without scheme": (model("org/name"), "a model address begins with hf://"),
    "model by http": (model("http://169.254.169.254/x"), "a model address begins with hf://"),
    "model by branch": (model("hf://org/name@main"), "commit of 40 hex digits"),
    "model image by tag": (model("oci://registry/m:latest"), "sha256:<64 hex digits>"),
    "model path with dots": (model("file:///models/../etc"), "no part may begin with a dot"),
    "claim path with dots": (model("pvc://claim/../x"), "no part may begin with a dot"),
    "bucket without path": (model("s3://bucket"), "s3://<bucket>/<path>"),
    "checksum of another kind": (
        model("file:///m", checksums={"a": "md5:1"}),
        "a checksum is written sha256:",
    ),
    "checksums of a streamed model": (
        model("s3://bucket/m", checksums={"a": "sha256:" + "0" * 64}),
        "cannot be verified: remove checksums",
    ),
    "token for a model that needs none": (
        model("file:///m", tokenSecretKeyRef={"name": "a", "key": "b"}),
        "tokenSecretKeyRef is used for hf:// models only",
    ),
    "a key of a megabyte": (
        model("file:///m", checksums={"x" * (1 << 20): "sha256:" + "0" * 64}),
        "at most 253 characters",
    ),
    # engine
    "device TPU": (engine(device="TPU"), 'supported values: "GPU", "CPU"'),
    "dtype int4": (engine(dtype="int4"), 'supported values: "auto"'),
    "memory as a number": (engine(gpuMemoryUtilization=0.9), "must be of type string"),
    "memory of 1.5": (engine(gpuMemoryUtilization="1.5"), 'between "0.05" and "1"'),
    "memory of 0.01": (engine(gpuMemoryUtilization="0.01"), 'between "0.05" and "1"'),
    "memory of a GPU without one": (
        engine(device="CPU", gpuMemoryUtilization="0.9"),
        "no meaning with device CPU",
    ),
    "image with a space": (engine(image="a b"), "an image is written"),
    "fewer GPUs than parallel parts": (
        revision(engine={"tensorParallelSize": 4}, resources={"limits": {"nvidia.com/gpu": 2}}),
        "a worker needs at least tensorParallelSize GPUs",
    ),
    "quantity that is none": (
        revision(resources={"limits": {"memory": "lots"}}),
        "spec.revision.resources.limits",
    ),
    "value without an argument": (engine(extraArgs=["8"]), "must be an argument that begins"),
    "the same variable twice": (
        engine(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        "Duplicate value",
    ),
    "variable with a dash": (variable("A-B"), "has letters, digits and underscores"),
    # texts
    "template in two places": (
        revision(prompt={"chatTemplate": "x", "configMapKeyRef": {"name": "a", "key": "b"}}),
        "set either chatTemplate or configMapKeyRef",
    ),
    "template nowhere": (revision(prompt={}), "set either chatTemplate or configMapKeyRef"),
    "retrieval nowhere": (revision(retrieval={}), "set either config or configMapKeyRef"),
    "a spec of one megabyte": (
        revision(prompt={"chatTemplate": "x" * (1 << 20)}),
        "chatTemplate: Too long: may not be more than 65536 bytes",
    ),
    "a reference to a name that is none": (
        revision(prompt={"configMapKeyRef": {"name": "A/B", "key": "b"}}),
        "the name of an object",
    ),
    **{
        f"argument {argument}": (engine(extraArgs=[argument]), ARGUMENT)
        for argument in (
            "--trust-remote-code",
            "--trust_remote_code",
            "--trust-remote",
            "--middleware=a.B",
            "--load-format=pt",
            "--port=1",
            "--host=0.0.0.0",
            "--api-key=x",
            "--generation-config",
            "--generation-config=/tmp/x",
            "--config=/tmp/x",
            "-tp",
        )
    },
    **{
        f"variable {text}": (variable(text), VARIABLE)
        for text in (*engine_settings.FORBIDDEN_VARIABLES, "LD_PRELOAD", "PYTHONPATH")
    },
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_with_a_message_that_says_how_to_mend(
    applier: Applier, change: Change, told: str
) -> None:
    answer = applier.try_create(make_manifest(change))
    assert answer.status in (400, 422), answer.body
    assert told in answer.message, answer.message[:2000]
    assert "rule error" not in answer.message
    assert "evaluating" not in answer.message


ACCEPTED: dict[str, Change] = {
    "the finest share": steps(canary("0.0001%"), canary("0.01%"), canary("0.5%")),
    "everybody": steps(canary("99.9999%"), canary("100%")),
    "shadow only": steps(shadow("100%")),
    "shadows that fall": steps(shadow("50%"), shadow("5%"), canary("1%")),
    "nine and ten": steps(canary("9%"), canary("10%")),
    "name of 40 characters": name("x" * 40),
    "hub": model("hf://org/Name_1.5-B@" + COMMIT, tokenSecretKeyRef={"name": "a", "key": "b"}),
    "bucket": model("s3://bucket/models/v1/"),
    "image": model("oci://registry.example:5000/a/b@sha256:" + "0" * 64),
    "claim": model("pvc://claim/models/v1", checksums={"a/b.st": "sha256:" + "0" * 64}),
    "file": model("file:///models/v1"),
    "memory": engine(gpuMemoryUtilization="0.925"),
    "all the memory": engine(gpuMemoryUtilization="1"),
    "every allowed argument": engine(
        extraArgs=[*engine_settings.ALLOWED_ARGUMENTS, *engine_settings.ALLOWED_ITEMS][:64]
    ),
    "argument and value": engine(extraArgs=["--max-num-seqs", "8", "--seed=-1"]),
    "GPUs as text and as number": revision(
        engine={"tensorParallelSize": 2},
        resources={"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": 2}},
    ),
    "another accelerator": revision(
        engine={"tensorParallelSize": 4}, resources={"limits": {"amd.com/gpu": 4}}
    ),
    "any retrieval configuration": revision(
        retrieval={"config": {"deep": [{"er": {"x": None}}], "n": 1.5}}
    ),
    "the largest template": revision(prompt={"chatTemplate": "x" * 65_536}),
    "no warm window": spec(strategy={"rollbackWindow": "0s"}),
    "every objective": objectives(
        ttftP99="0.1ms",
        tpotP99="40ms",
        e2eP99="2m",
        errorRate="0.0001%",
        margin="0%",
        promotionMargin="0.0001%",
    ),
    "wide margins": objectives(margin="150%", promotionMargin="999.9999%"),
    "a promotion margin just above the default margin": objectives(promotionMargin="10.5%"),
    "a deadline": steps(
        {"canary": {"share": "5%", "duration": "1h", "deadline": "60m"}},
    ),
    "a gate that only reports": spec(gates={"latency": {"mode": "Observe", "placebo": True}}),
    "rollback at the deadline": spec(
        strategy={"onInconclusive": "Rollback", "errorBudget": "49.9999%"}
    ),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_good_input_is_accepted_by_the_api_server_and_by_the_operator(
    applier: Applier, change: Change
) -> None:
    answer = applier.try_create(make_manifest(change))
    assert answer.status == 201, answer.message[:2000]
    read_spec(answer.body)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_applies(apiserver: ApiServer, namespace: str, path: Path) -> None:
    done = apiserver.kubectl("apply", "--namespace", namespace, "--filename", str(path))
    assert done.returncode == 0, done.stderr


def test_the_smallest_example_is_under_15_lines() -> None:
    assert len((EXAMPLES / "smallest.yaml").read_text().splitlines()) < 15


def test_nothing_is_filled_in_inside_of_a_revision(applier: Applier) -> None:
    given = yaml.safe_load((EXAMPLES / "smallest.yaml").read_text())
    stored = applier.create(copy.deepcopy(given))
    assert stored["spec"]["revision"] == given["spec"]["revision"]


def test_defaults_are_as_documented_and_as_the_operators_own(applier: Applier) -> None:
    stored = applier.create(make_manifest())["spec"]
    assert stored["strategy"] == {
        "steps": [
            {"shadow": {"share": "5%", "duration": "24h", "minRequests": 20}},
            {"canary": {"share": "0.5%", "duration": "30m", "minRequests": 20}},
            {"canary": {"share": "5%", "duration": "15m", "minRequests": 20}},
            {"canary": {"share": "25%", "duration": "10m", "minRequests": 20}},
            {"canary": {"share": "50%", "duration": "10m", "minRequests": 20}},
        ],
        "matchLoad": True,
        "rollbackWindow": "1h",
        "onInconclusive": "Hold",
        "errorBudget": "1%",
        "readyTimeout": "30m",
    }
    assert stored["objectives"] == {"promotionMargin": "25%"}
    assert stored["gates"]["latency"] == {"mode": "Enforce", "placebo": False}
    assert stored["revisionHistoryLimit"] == 10
    assert read_spec({"spec": stored}) == read_spec(make_manifest())


def test_kubectl_apply_tells_an_unknown_field(apiserver: ApiServer, namespace: str) -> None:
    text = json.dumps(make_manifest(spec(replcas=3)))
    done = apiserver.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)
    assert done.returncode != 0
    assert 'unknown field "spec.replcas"' in done.stderr
