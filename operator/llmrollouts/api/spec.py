"""What a user asks for: the spec of an LLMDeployment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from llmrollouts.api.duration import DURATION_PATTERN
from llmrollouts.api.model import ApiModel
from llmrollouts.api.share import SHARE_PATTERN

ShareText = Annotated[str, StringConstraints(pattern=SHARE_PATTERN, max_length=9)]
DurationText = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, max_length=32)]


class ConfigMapKeyRef(ApiModel):
    name: str
    key: str


class SecretKeyRef(ApiModel):
    name: str
    key: str


class ModelSource(ApiModel):
    uri: str
    served_name: str | None = None
    checksums: dict[str, str] | None = None
    token_secret_key_ref: SecretKeyRef | None = None


class EnvVar(ApiModel):
    name: str
    value: str


class Engine(ApiModel):
    image: str | None = None
    device: Literal["GPU", "CPU"] | None = None
    max_model_len: int | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    tensor_parallel_size: int | None = None
    gpu_memory_utilization: str | None = None
    extra_args: list[str] | None = None
    env: list[EnvVar] | None = None
    shutdown_timeout: DurationText | None = None


class Resources(ApiModel):
    limits: dict[str, str | int] | None = None
    requests: dict[str, str | int] | None = None


class Prompt(ApiModel):
    chat_template: str | None = None
    config_map_key_ref: ConfigMapKeyRef | None = None


class Retrieval(ApiModel):
    config: dict[str, Any] | None = None
    config_map_key_ref: ConfigMapKeyRef | None = None


class Toleration(ApiModel):
    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Placement(ApiModel):
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    image_pull_secrets: list[str] | None = None


class Revision(ApiModel):
    """Everything that changes behaviour. No schema defaults here: see rollout/revisions.py."""

    model: ModelSource
    engine: Engine | None = None
    resources: Resources | None = None
    prompt: Prompt | None = None
    retrieval: Retrieval | None = None
    placement: Placement | None = None


class ShadowStep(ApiModel):
    share: ShareText
    duration: DurationText
    min_requests: int = 20


class CanaryStep(ApiModel):
    share: ShareText
    duration: DurationText
    min_requests: int = 20


class Step(ApiModel):
    """Exactly one of the two is set."""

    shadow: ShadowStep | None = None
    canary: CanaryStep | None = None


def default_steps() -> list[Step]:
    return [
        Step(shadow=ShadowStep(share="5%", duration="24h")),
        Step(canary=CanaryStep(share="0.5%", duration="30m")),
        Step(canary=CanaryStep(share="5%", duration="15m")),
        Step(canary=CanaryStep(share="25%", duration="10m")),
        Step(canary=CanaryStep(share="50%", duration="10m")),
    ]


class Strategy(ApiModel):
    steps: list[Step] = Field(default_factory=default_steps)
    match_load: bool = True
    rollback_window: DurationText = "1h"
    max_extra_replicas: int | None = None
    ready_timeout: DurationText = "30m"


class LLMDeploymentSpec(ApiModel):
    replicas: int
    revision: Revision
    strategy: Strategy = Field(default_factory=Strategy)
