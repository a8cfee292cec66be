"""Specs from which the makers' tests make children."""

from __future__ import annotations

from typing import Any

from llmrollouts.api.deployment import read_spec
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.resources.canonical import canonical_source
from llmrollouts.resources.children import Owner
from llmrollouts.resources.revision import RevisionContent, make_revision

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "4a" * 32
SETTINGS = OperatorSettings(
    launcher_image=f"registry.example/llm-rollouts/worker@{DIGEST}",
    engine_image_gpu=f"registry.example/vllm/vllm-openai@{DIGEST}",
)
OWNER = Owner("prod", "chat", "00000000-0000-0000-0000-000000000001")

SMALL: dict[str, Any] = {"model": {"uri": f"hf://org/model@{COMMIT}"}}
CPU: dict[str, Any] = {
    "model": {"uri": "file:///models/v1", "servedName": "tiny"},
    "engine": {
        "image": "localhost/vllm-cpu:1",
        "device": "CPU",
        "dtype": "bfloat16",
        "maxModelLen": 512,
        "extraArgs": ["--enforce-eager"],
        "env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "2"}],
        "shutdownTimeout": "30s",
    },
    "resources": {"requests": {"cpu": "500m", "memory": "3Gi"}, "limits": {"cpu": 2}},
}
FULL: dict[str, Any] = {
    "model": {
        "uri": "pvc://weights/team/model",
        "servedName": "chat-large",
        "checksums": {"model-00001.safetensors": "sha256:" + "c" * 64},
    },
    "engine": {
        "image": f"registry.example/vllm/vllm-openai@{DIGEST}",
        "tensorParallelSize": 4,
        "gpuMemoryUtilization": "0.92",
        "extraArgs": ["--max-num-seqs", "64", "--generation-config=vllm"],
        "env": [{"name": "NCCL_DEBUG", "value": "$(HF_TOKEN)"}],
    },
    "prompt": {"chatTemplate": "{{ messages }}"},
    "retrieval": {"config": {"index": "docs", "top": 5}},
    "placement": {
        "nodeSelector": {"accelerator": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}],
    },
}


def make_spec(revision: dict[str, Any], **spec: Any) -> LLMDeploymentSpec:
    return read_spec({"spec": {"replicas": 2, "revision": revision, **spec}})


def make_content(
    revision: dict[str, Any],
    texts: dict[str, str] | None = None,
    settings: OperatorSettings = SETTINGS,
    **spec: Any,
) -> RevisionContent:
    source = canonical_source(revision)
    return make_revision("chat", make_spec(revision, **spec), source, texts or {}, settings, 7, ())
