"""The allow-list of engine arguments, and the command line made from typed fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmrollouts.api.engine_settings import ALLOWED_ARGUMENTS, ALLOWED_ITEMS
from worker_image.launcher.config import parse_config
from worker_image.launcher.engine_arguments import (
    ALLOWED,
    TYPED,
    make_serve_arguments,
    refused_arguments,
)

RECORDED = Path(__file__).parent / "contract" / "vllm-0.32.0.json"


@pytest.fixture(scope="module")
def vllm_flags() -> dict[str, str]:
    flags: dict[str, str] = json.loads(RECORDED.read_text(encoding="utf-8"))["flags"]
    return flags


def make_config(**fields: Any) -> Any:
    model = {"kind": "path", "path": "/models/v1", "servedName": "chat"}
    return parse_config({"schemaVersion": 1, "model": model, **fields})


def serve_arguments(config: Any) -> list[str]:
    return make_serve_arguments(config, tapped=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trust-remote-code"],
        ["--trust_remote_code"],
        ["--trust-remote"],
        ["--api-key", "x"],
        ["--api-key=x"],
        ["--port", "1"],
        ["--host=0.0.0.0"],
        ["--uds", "/tmp/x"],
        ["--middleware", "os.system"],
        ["--config", "/etc/passwd"],
        ["--load-format", "pt"],
        ["--load-format=auto"],
        ["--load-format"],
        ["--load_format", "tensorizer"],
        ["--logits-processors", "a.B"],
        ["--worker-cls", "a.B"],
        ["--worker-extension-cls", "a.B"],
        ["--kv-transfer-config", "{}"],
        ["--tool-parser-plugin", "/x.py"],
        ["--compilation-config.backend", "a.B"],
        ["--distributed-executor-backend", "a.B"],
        ["--enable-lora"],
        ["--lora-modules", "x=/y"],
        ["--allowed-local-media-path", "/"],
        ["--grpc"],
        ["--headless"],
        ["--data-parallel-size", "2"],
        ["--generation-config", "/tmp/x"],
        ["-r", "4"],
        ["--"],
        ["value"],
        ["--max-num-seqs", "8", "--port=1"],
        ["--no-enable-server-load-tracking"],
    ],
)
def test_dangerous_or_unknown_arguments_are_refused(arguments: list[str]) -> None:
    assert refused_arguments(arguments) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--max-num-seqs", "8"],
        ["--max_num_seqs=8"],
        ["--enforce-eager", "--seed", "-1"],
        ["--no-enable-prefix-caching"],
        ["--load-format", "fastsafetensors"],
        ["--generation-config=vllm"],
        ["--cudagraph-capture-sizes", "1", "2", "4"],
        ["-q", "fp8"],
    ],
)
def test_harmless_arguments_are_allowed(arguments: list[str]) -> None:
    assert refused_arguments(arguments) is None


def test_typed_fields_cannot_be_overridden() -> None:
    for flag, field in TYPED.items():
        problem = refused_arguments([flag, "x"])
        assert problem is not None
        assert field in problem


def test_every_allowed_and_typed_flag_exists_in_vllm(vllm_flags: dict[str, str]) -> None:
    assert {*ALLOWED, *TYPED} - set(vllm_flags) == set()


def test_whatever_the_operator_lets_through_the_launcher_accepts() -> None:
    for flag in ALLOWED_ARGUMENTS:
        assert refused_arguments([flag, "1"]) is None, flag
    for item in ALLOWED_ITEMS:
        assert refused_arguments([item]) is None, item


def test_typed_fields_become_flags_and_extra_arguments_come_last() -> None:
    config = make_config(
        engine={
            "maxModelLen": 512,
            "dtype": "bfloat16",
            "tensorParallelSize": 2,
            "gpuMemoryUtilization": 0.85,
            "extraArgs": ["--seed", "3"],
        },
        chatTemplateFile="/etc/llmrollouts/chat_template.jinja",
        shutdownTimeoutSeconds=7,
    )
    line = " ".join(serve_arguments(config))
    assert "--served-model-name chat" in line
    assert "--dtype bfloat16 --tensor-parallel-size 2 --shutdown-timeout 7" in line
    assert "--max-model-len 512 --gpu-memory-utilization 0.85" in line
    assert "--chat-template /etc/llmrollouts/chat_template.jinja" in line
    assert line.endswith("--load-format safetensors --seed 3")


def test_defaults_of_vllm_are_left_alone() -> None:
    line = " ".join(serve_arguments(make_config()))
    assert "--max-model-len" not in line
    assert "--gpu-memory-utilization" not in line
    assert "--chat-template" not in line


def test_only_safe_formats_are_loaded_whatever_the_model() -> None:
    assert "--load-format safetensors" in " ".join(serve_arguments(make_config()))
    s3 = make_config(model={"kind": "s3", "uri": "s3://b/m", "servedName": "chat"})
    assert "--load-format runai_streamer" in " ".join(serve_arguments(s3))
    chosen = make_config(engine={"extraArgs": ["--load-format=fastsafetensors"]})
    assert " ".join(serve_arguments(chosen)).count("--load-format") == 1


def test_hub_model_is_pinned_to_its_commit() -> None:
    model = {"kind": "hub", "repo": "org/name", "revision": "c" * 40, "servedName": "chat"}
    assert f"--revision {'c' * 40}" in " ".join(serve_arguments(make_config(model=model)))


def test_only_the_launcher_adds_a_middleware_and_only_with_the_tap(
    vllm_flags: dict[str, str],
) -> None:
    line = " ".join(make_serve_arguments(make_config(), tapped=True))
    assert "--middleware llmrollouts_tap.Tap" in line
    assert "--middleware" in vllm_flags
    assert "--middleware" not in " ".join(serve_arguments(make_config()))
    assert refused_arguments(["--middleware", "llmrollouts_tap.Tap"]) is not None
