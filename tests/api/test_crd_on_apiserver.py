"""The CRD on a real API server: what `kubectl apply` takes, refuses, fills in and explains."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmrollouts.api import crd, engine_settings
from llmrollouts.api.deployment import read_spec, write_status
from llmrollouts.api.spec import MAX_STEPS
from llmrollouts.api.status import Condition, LLMDeploymentStatus, StepStatus
from tests.apiserver import Answer, ApiServer

pytestmark = pytest.mark.apiserver

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Change = Callable[[dict[str, Any]], Any]


class Applier:
    """Sends manifests as strict server-side validation sees them, without storing them."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._path = f"/apis/llmrollouts.dev/v1alpha1/namespaces/{namespace}/llmdeployments"

    def try_create(self, manifest: dict[str, Any]) -> Answer:
        query = "?dryRun=All&fieldValidation=Strict"
        return self._server.request("POST", self._path + query, manifest)

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        answer = self._server.request("POST", self._path + "?fieldValidation=Strict", manifest)
        assert answer.status == 201, answer.message
        return dict(answer.body)

    def put(self, manifest: dict[str, Any], part: str = "") -> Answer:
        return self._server.request(
            "PUT", f"{self._path}/{manifest['metadata']['name']}{part}", manifest
        )

    def get(self, name: str, part: str = "") -> dict[str, Any]:
        return dict(self._server.request("GET", f"{self._path}/{name}{part}").body)


@pytest.fixture
def applier(apiserver: ApiServer, namespace: str) -> Applier:
    return Applier(apiserver, namespace)


def make_manifest(change: Change | None = None) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "apiVersion": "llmrollouts.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "chat"},
        "spec": {"replicas": 2, "revision": {"model": {"uri": f"hf://org/model@{COMMIT}"}}},
    }
    if change is not None:
        change(manifest)
    return manifest


def spec(**fields: Any) -> Change:
    return lambda manifest: manifest["spec"].update(fields)


def revision(**fields: Any) -> Change:
    return lambda manifest: manifest["spec"]["revision"].update(fields)


def steps(*given: dict[str, Any]) -> Change:
    return spec(strategy={"steps": list(given)})


def canary(share: Any, duration: str = "10m") -> dict[str, Any]:
    return {"canary": {"share": share, "duration": duration}}


def shadow(share: Any) -> dict[str, Any]:
    return {"shadow": {"share": share, "duration": "10m"}}


def model(uri: str, **fields: Any) -> Change:
    return revision(model={"uri": uri, **fields})


def name(text: str) -> Change:
    return lambda manifest: manifest["metadata"].update(name=text)


def engine(**fields: Any) -> Change:
    return revision(engine=fields)


def variable(text: str) -> Change:
    return engine(env=[{"name": text, "value": "x"}])


SHARE = "the share of a step is above 0% and at most 100%"
RISING = "the shares of the canary steps rise from step to step"
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
        "readyTimeout": "30m",
    }
    assert stored["revisionHistoryLimit"] == 10
    assert read_spec({"spec": stored}) == read_spec(make_manifest())


def test_kubectl_apply_tells_an_unknown_field(apiserver: ApiServer, namespace: str) -> None:
    text = json.dumps(make_manifest(spec(replcas=3)))
    done = apiserver.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)
    assert done.returncode != 0
    assert 'unknown field "spec.replcas"' in done.stderr


def test_scale_changes_replicas_and_shows_the_workers(
    apiserver: ApiServer, namespace: str, applier: Applier
) -> None:
    stored = applier.create(make_manifest())
    status = LLMDeploymentStatus(replicas=3, ready_replicas=2, selector="a=b")
    assert applier.put(write_status(stored, status), "/status").status == 200
    done = apiserver.kubectl("scale", "-n", namespace, "llmd/chat", "--replicas=5")
    assert done.returncode == 0, done.stderr
    scale = applier.get("chat", "/scale")
    assert scale["spec"]["replicas"] == 5
    assert scale["status"] == {"replicas": 3, "selector": "a=b"}
    refused = apiserver.kubectl("scale", "-n", namespace, "llmd/chat", "--replicas=0")
    assert "greater than or equal to 1" in refused.stderr


def make_status() -> LLMDeploymentStatus:
    at = "2026-11-22T21:15:00.123456Z"
    progressing = {
        "type": "Progressing",
        "status": "True",
        "reason": "StepRunning",
        "message": "m" * 5_000,
        "lastTransitionTime": at,
    }
    step = {"index": 1, "kind": "Canary", "share": "0.5%", "startedAt": at, "heldSeconds": 1.5}
    return LLMDeploymentStatus(
        phase="Progressing",
        stable_revision="bbbbbbbbbb",
        canary_revision="cccccccccc",
        share="0.5%",
        step=StepStatus.model_validate(step),
        conditions=[Condition.model_validate(progressing)],
    )


def test_what_the_operator_writes_is_stored_as_written(applier: Applier) -> None:
    wanted = write_status(applier.create(make_manifest()), make_status())
    answer = applier.put(wanted, "/status")
    assert answer.status == 200, answer.message
    # A status that came back otherwise would be written again in every round.
    assert applier.get("chat")["status"] == wanted["status"]


def test_columns_show_a_rollout_at_a_glance(
    apiserver: ApiServer, namespace: str, applier: Applier
) -> None:
    applier.put(write_status(applier.create(make_manifest()), make_status()), "/status")
    done = apiserver.kubectl("get", "llmd", "-n", namespace)
    head, row = (line.split() for line in done.stdout.splitlines())
    assert head == ["NAME", "PHASE", "STABLE", "CANARY", "STEP", "SHARE", "VERDICT", "AGE"]
    assert row[:-1] == [
        *("chat", "Progressing", "bbbbbbbbbb", "cccccccccc"),
        *("2/5", "Canary", "0.5%", "StepRunning"),
    ]


def test_the_status_is_apart_from_the_spec(applier: Applier) -> None:
    stored = applier.create(make_manifest())
    stored["status"] = {"phase": "Serving"}
    assert applier.put(stored).status == 200
    assert "status" not in applier.get("chat")


def test_a_status_of_nonsense_is_refused_where_its_form_is_wrong(applier: Applier) -> None:
    stored = applier.create(make_manifest())
    stored["status"] = {"phase": "Bogus", "step": 3}
    answer = applier.put(stored, "/status")
    assert answer.status == 422
    assert "status.phase" in answer.message


def _paths(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for field, inner in node.get("properties", {}).items():
        below = f"{path}.{field}"
        yield below, inner.get("description", "")
        yield from _paths(inner.get("items", inner), below)


def test_kubectl_explain_works_on_every_field(apiserver: ApiServer) -> None:
    version = crd.make_crd()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    done = apiserver.kubectl("explain", "llmd", "--recursive")
    assert done.returncode == 0, done.stderr
    assert "One large language model behind one address" in " ".join(done.stdout.split())
    # kubectl prints what this document says, so all of it is compared, and a few are printed.
    document = apiserver.request("GET", "/openapi/v3/apis/llmrollouts.dev/v1alpha1").body
    schemas = document["components"]["schemas"]
    (served,) = [s for n, s in schemas.items() if n.endswith(".LLMDeployment")]
    expected = dict(
        _paths({"properties": {k: root["properties"][k] for k in ("spec", "status")}}, "")
    )
    found = dict(_paths(served, ""))
    assert expected.items() <= found.items()
    assert all(expected.values())
    for path in (
        "spec.strategy.steps.canary.share",
        "spec.revision.model.uri",
        "status.warm.until",
    ):
        printed = apiserver.kubectl("explain", f"llmd.{path}")
        assert printed.returncode == 0, printed.stderr
        assert expected[f".{path}"][:60] in " ".join(printed.stdout.split())


def test_the_short_name_the_category_and_the_kind_find_it(
    apiserver: ApiServer, namespace: str, applier: Applier
) -> None:
    applier.create(make_manifest())
    for word in ("llmd", "llm", "llmdeployment", "llmdeployments.llmrollouts.dev"):
        done = apiserver.kubectl("get", word, "-n", namespace, "-o", "name")
        assert done.stdout.strip() == "llmdeployment.llmrollouts.dev/chat", done.stderr
