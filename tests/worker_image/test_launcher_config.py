"""launcher.json: what is read, and what is refused with which words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from worker_image.launcher.config import FileChecksum, parse_config, read_config
from worker_image.launcher.failure import BAD_CONFIGURATION, Failure

SMALLEST: dict[str, Any] = {
    "schemaVersion": 1,
    "model": {"kind": "path", "path": "/models/v1", "servedName": "chat"},
}
SUM = "ab" * 32


def changed(path: str, value: object) -> dict[str, Any]:
    """The smallest document with one field set; `path` is dotted."""
    document = copy.deepcopy(SMALLEST)
    *parents, last = path.split(".")
    place = document
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return document


def test_smallest_document_gets_the_documented_defaults() -> None:
    config = parse_config(SMALLEST)
    assert (config.engine_port, config.launcher_port) == (8000, 8090)
    assert config.engine.dtype == "auto"
    assert config.engine.max_model_len is None
    assert config.idle_probe.failures == 3
    assert config.idle_probe.interval == 1.0
    assert config.drain_wait == 5.0
    assert config.shutdown_timeout == 30
    assert config.chat_template_file is None
    assert config.tap, "a file that an older operator wrote is measured too"


def test_full_document_is_read() -> None:
    document = {
        "schemaVersion": 1,
        "model": {
            "kind": "hub",
            "repo": "org/name",
            "revision": "a" * 40,
            "servedName": "chat",
            "checksums": {"b/x.safetensors": SUM, "a.json": "sha256:" + SUM},
        },
        "engine": {
            "maxModelLen": 4096,
            "dtype": "bfloat16",
            "tensorParallelSize": 2,
            "gpuMemoryUtilization": 0.9,
            "extraArgs": ["--max-num-seqs", "8"],
        },
        "chatTemplateFile": "/etc/llmrollouts/chat_template.jinja",
        "listenHost": "127.0.0.1",
        "enginePort": 1,
        "launcherPort": 2,
        "startTimeoutSeconds": 10,
        "drainWaitSeconds": 0,
        "drainLapseSeconds": 9,
        "shutdownTimeoutSeconds": 0,
        "killMarginSeconds": 1.5,
        "idleProbe": {
            "intervalSeconds": 2,
            "failures": 5,
            "timeoutSeconds": 4,
            "busyIntervalSeconds": 8,
        },
        "warmup": {"requests": 0, "maxTokens": 1, "timeoutSeconds": 3},
        "tap": False,
    }
    config = parse_config(document)
    assert config.model.location == "org/name"
    assert config.model.revision == "a" * 40
    assert config.model.checksums == (
        FileChecksum("a.json", SUM),
        FileChecksum("b/x.safetensors", SUM),
    )
    assert config.engine.extra_args == ("--max-num-seqs", "8")
    assert config.idle_probe.busy_interval == 8.0
    assert config.warmup.requests == 0
    assert not config.tap


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schemaVersion", 2, "schemaVersion must be 1, found 2"),
        ("schemaVersion", "1", "schemaVersion must be a whole number"),
        ("nonsense", 1, "unknown field nonsense"),
        ("engine.nonsense", 1, "unknown field engine.nonsense"),
        ("model.nonsense", 1, "unknown field model.nonsense"),
        ("idleProbe.nonsense", 1, "unknown field idleProbe.nonsense"),
        ("model", [], "model must be an object"),
        ("model.kind", "ftp", "model.kind must be path, hub or s3"),
        ("model.path", "models/v1", "model.path must be an absolute path"),
        ("model.path", "", "model.path must be a non-empty string"),
        ("model.path", None, "model.path must be a value, found null"),
        ("model.servedName", 3, "model.servedName must be a non-empty string"),
        ("model.checksums", {"../etc/passwd": SUM}, "a path inside the model"),
        ("model.checksums", {"/etc/passwd": SUM}, "a path inside the model"),
        ("model.checksums", {"a": "abc"}, "model.checksums[a] must be a sha256"),
        ("engine.dtype", "int4", "engine.dtype must be one of auto"),
        ("engine.maxModelLen", True, "engine.maxModelLen must be a whole number"),
        ("engine.maxModelLen", 0, "engine.maxModelLen must be a whole number"),
        ("engine.gpuMemoryUtilization", 1.5, "engine.gpuMemoryUtilization must be a number from"),
        ("engine.extraArgs", "--seed", "engine.extraArgs must be a list of strings"),
        ("engine.extraArgs", ["--trust-remote-code"], "--trust-remote-code is not allowed"),
        ("enginePort", 70000, "enginePort must be a whole number from 1 to 65535"),
        ("launcherPort", 8000, "enginePort and launcherPort are both 8000"),
        ("drainWaitSeconds", -1, "drainWaitSeconds must be a number from 0"),
        ("shutdownTimeoutSeconds", 1.5, "shutdownTimeoutSeconds must be a whole number"),
        ("idleProbe.failures", 0, "idleProbe.failures must be a whole number from 1"),
        ("tap", "yes", "tap must be true or false"),
        ("chatTemplateFile", 7, "chatTemplateFile must be a non-empty string"),
    ],
)
def test_bad_field_is_named(path: str, value: object, words: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_config(changed(path, value))
    assert caught.value.code == BAD_CONFIGURATION
    assert words in caught.value.message


@pytest.mark.parametrize("field", ["model", "schemaVersion"])
def test_missing_field_is_named(field: str) -> None:
    document = {name: value for name, value in SMALLEST.items() if name != field}
    with pytest.raises(Failure, match=f"the field {field} is missing"):
        parse_config(document)


def test_hub_model_needs_a_commit() -> None:
    model = {"kind": "hub", "repo": "org/name", "revision": "main", "servedName": "chat"}
    with pytest.raises(Failure, match="a commit of 40 hex digits"):
        parse_config({**SMALLEST, "model": model})


def test_checksums_of_an_s3_model_are_refused_rather_than_ignored() -> None:
    model = {"kind": "s3", "uri": "s3://b/m", "servedName": "chat", "checksums": {"a": SUM}}
    with pytest.raises(Failure, match="cannot be verified for an s3 model"):
        parse_config({**SMALLEST, "model": model})


def test_long_bad_value_is_cut_in_the_message() -> None:
    with pytest.raises(Failure) as caught:
        parse_config(changed("model.kind", "x" * 10_000))
    assert len(caught.value.message) < 300


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot read .*No such file"):
        read_config(tmp_path / "launcher.json")


def test_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "launcher.json"
    file.write_text(json.dumps(SMALLEST), encoding="utf-8")
    assert read_config(file) == parse_config(SMALLEST)
