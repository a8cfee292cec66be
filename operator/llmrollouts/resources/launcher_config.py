"""Makes ``launcher.json``: what the launcher in a worker is told to run.

The schema is the launcher's own (worker_image/launcher/config.py); a test reads what is made here
with the launcher's parser. It is stored with the revision and never rendered again. Pure.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from llmrollouts.api.duration import parse_duration
from llmrollouts.api.labels import ENGINE_PORT, LAUNCHER_PORT
from llmrollouts.api.model_uri import (
    FileModel,
    HubModel,
    ImageModel,
    ModelUri,
    ObjectStoreModel,
    VolumeModel,
    parse_model_uri,
)
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.spec import Engine, LLMDeploymentSpec, ModelSource

SCHEMA_VERSION: Final = 1
CONFIG_FOLDER: Final = "/etc/llmrollouts"
CONFIG_FILE: Final = "launcher.json"
TEMPLATE_FILE: Final = "chat_template.jinja"
RETRIEVAL_FILE: Final = "retrieval.json"
MODEL_FOLDER: Final = "/models"

# How long the launcher waits beyond the shutdown time-out before it kills the engine.
KILL_MARGIN_SECONDS: Final = 15
LONGEST_START_SECONDS: Final = 3600.0


def make_launcher_config(
    deployment: str, spec: LLMDeploymentSpec, settings: OperatorSettings, *, has_template: bool
) -> str:
    """The text of launcher.json for the LLMDeployment named ``deployment``."""
    revision = spec.revision
    config: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "model": _make_model(deployment, revision.model),
        "engine": _make_engine(revision.engine or Engine()),
        "enginePort": ENGINE_PORT,
        "launcherPort": LAUNCHER_PORT,
        # The state machine gives up on a new revision after readyTimeout; the launcher must not
        # give up earlier.
        "startTimeoutSeconds": max(
            LONGEST_START_SECONDS, parse_duration(spec.strategy.ready_timeout)
        ),
        "drainWaitSeconds": settings.drain_seconds,
        "shutdownTimeoutSeconds": shutdown_seconds(revision.engine, settings),
        "killMarginSeconds": KILL_MARGIN_SECONDS,
    }
    if revision.engine is not None and revision.engine.tap is not None:
        config["tap"] = revision.engine.tap
    if has_template:
        config["chatTemplateFile"] = f"{CONFIG_FOLDER}/{TEMPLATE_FILE}"
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def shutdown_seconds(engine: Engine | None, settings: OperatorSettings) -> int:
    """How long running answers may finish after SIGTERM, in whole seconds."""
    if engine is None or engine.shutdown_timeout is None:
        return settings.shutdown_seconds
    return math.ceil(parse_duration(engine.shutdown_timeout))


def _make_model(deployment: str, model: ModelSource) -> dict[str, Any]:
    common = {
        "servedName": model.served_name or deployment,
        "checksums": dict(model.checksums or {}),
    }
    return {**_make_location(parse_model_uri(model.uri)), **common}


def _make_location(uri: ModelUri) -> dict[str, Any]:
    match uri:
        case HubModel(repository, commit):
            return {"kind": "hub", "repo": repository, "revision": commit}
        case ObjectStoreModel(address):
            return {"kind": "s3", "uri": address}
        case ImageModel():
            return {"kind": "path", "path": MODEL_FOLDER}
        case VolumeModel(_, path):
            return {"kind": "path", "path": f"{MODEL_FOLDER}/{path}".rstrip("/")}
        case FileModel(path):
            return {"kind": "path", "path": path}


def _make_engine(engine: Engine) -> dict[str, Any]:
    made: dict[str, Any] = {
        "dtype": engine.dtype or "auto",
        "tensorParallelSize": engine.tensor_parallel_size or 1,
        "extraArgs": engine.extra_args or [],
    }
    if engine.max_model_len is not None:
        made["maxModelLen"] = engine.max_model_len
    if engine.gpu_memory_utilization is not None:
        made["gpuMemoryUtilization"] = float(engine.gpu_memory_utilization)
    return made
