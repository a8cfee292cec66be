"""launcher.json: what the operator writes, the launcher's own parser reads."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.resources.worlds import COMMIT, CPU, DIGEST, FULL, SETTINGS, SMALL, make_content
from worker_image.launcher.config import Config, parse_config
from worker_image.launcher.engine_arguments import make_serve_arguments


def parse(revision: dict[str, Any], **spec: Any) -> Config:
    return parse_config(json.loads(make_content(revision, **spec).files["launcher.json"]))


def test_the_smallest_revision_serves_the_model_under_the_deployments_name() -> None:
    config = parse(SMALL)
    assert (config.model.kind, config.model.location) == ("hub", "org/model")
    assert config.model.revision == COMMIT
    assert config.model.served_name == "chat"
    assert (config.engine_port, config.launcher_port) == (8000, 8090)
    assert config.chat_template_file is None


def test_typed_fields_reach_the_command_line_of_vllm() -> None:
    arguments = make_serve_arguments(parse(FULL), tapped=True)
    pairs = dict(itertools.pairwise(arguments))
    assert pairs["--served-model-name"] == "chat-large"
    assert pairs["--tensor-parallel-size"] == "4"
    assert pairs["--gpu-memory-utilization"] == "0.92"
    assert pairs["--chat-template"] == "/etc/llmrollouts/chat_template.jinja"
    assert pairs["--max-num-seqs"] == "64"
    assert "--generation-config=vllm" in arguments
    cpu = make_serve_arguments(parse(CPU), tapped=True)
    pairs = dict(itertools.pairwise(cpu))
    assert (pairs["--dtype"], pairs["--max-model-len"]) == ("bfloat16", "512")
    assert pairs["--shutdown-timeout"] == "30"


@pytest.mark.parametrize(
    ("uri", "kind", "location"),
    [
        ("file:///models/v1", "path", "/models/v1"),
        ("pvc://claim", "path", "/models"),
        ("pvc://claim/a/b", "path", "/models/a/b"),
        (f"oci://registry.example/m@{DIGEST}", "path", "/models"),
        ("s3://bucket/a/b", "s3", "s3://bucket/a/b"),
        (f"hf://org/model@{COMMIT}", "hub", "org/model"),
    ],
)
def test_each_form_of_address_reaches_the_launcher(uri: str, kind: str, location: str) -> None:
    model = parse({"model": {"uri": uri}}).model
    assert (model.kind, model.location) == (kind, location)


def test_the_tap_runs_unless_the_revision_turns_it_off() -> None:
    assert parse(SMALL).tap
    untapped = parse({**SMALL, "engine": {"tap": False}})
    assert not untapped.tap
    assert "--middleware" not in make_serve_arguments(untapped, tapped=untapped.tap)


def test_checksums_reach_the_launcher() -> None:
    (checksum,) = parse(FULL).model.checksums
    assert (checksum.path, checksum.sha256) == ("model-00001.safetensors", "c" * 64)


@pytest.mark.parametrize(("ready_timeout", "seconds"), [("30s", 3600.0), ("3h", 10_800.0)])
def test_the_launcher_never_gives_up_before_the_operator(
    ready_timeout: str, seconds: float
) -> None:
    assert parse(SMALL, strategy={"readyTimeout": ready_timeout}).start_timeout == seconds


def test_r29_a_pod_is_given_longer_than_the_launcher_takes_to_leave() -> None:
    settings = replace(SETTINGS, drain_seconds=17, shutdown_seconds=300)
    content = make_content(SMALL, settings=settings)
    config = parse_config(json.loads(content.files["launcher.json"]))
    grace = json.loads(content.template)["spec"]["terminationGracePeriodSeconds"]
    assert config.drain_wait == 17
    assert config.shutdown_timeout == 300
    assert grace > config.drain_wait + config.shutdown_timeout + config.kill_margin
