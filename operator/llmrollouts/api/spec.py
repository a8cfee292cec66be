"""What a user asks for: the spec of an LLMDeployment.

Descriptions, bounds and rules stand beside the fields, here and in revision.py and strategy.py;
api/crd.py makes the CRD from them, so the API server refuses at ``kubectl apply`` what these
models would refuse. The operator never writes a spec. Other packages import its types from here.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from llmrollouts.api.gates import Gates, LatencyGate
from llmrollouts.api.model import ApiModel
from llmrollouts.api.objectives import Objectives
from llmrollouts.api.revision import (
    MAX_TEXT,
    ConfigMapKeyRef,
    Engine,
    EnvVar,
    ModelSource,
    Placement,
    Prompt,
    Resources,
    Retrieval,
    Revision,
    SecretKeyRef,
    SecretRef,
    Toleration,
)
from llmrollouts.api.rules import rules
from llmrollouts.api.strategy import (
    MAX_REPLICAS,
    MAX_STEPS,
    CanaryStep,
    ShadowStep,
    Step,
    Strategy,
    default_steps,
)
from llmrollouts.api.texts import DurationText, LatencyText, ShareText
from llmrollouts.api.traffic import COPIES_NOTHING, HTTPRouteReference, Traffic

__all__ = [
    "MAX_REPLICAS",
    "MAX_STEPS",
    "MAX_TEXT",
    "CanaryStep",
    "ConfigMapKeyRef",
    "DurationText",
    "Engine",
    "EnvVar",
    "Gates",
    "HTTPRouteReference",
    "LLMDeploymentSpec",
    "LatencyGate",
    "LatencyText",
    "ModelSource",
    "Objectives",
    "Placement",
    "Prompt",
    "Resources",
    "Retrieval",
    "Revision",
    "SecretKeyRef",
    "SecretRef",
    "ShadowStep",
    "ShareText",
    "Step",
    "Strategy",
    "Toleration",
    "Traffic",
    "default_steps",
]


class LLMDeploymentSpec(ApiModel):
    """What should run and how new revisions take over. Written by you, never by the operator."""

    model_config = ConfigDict(json_schema_extra=rules(COPIES_NOTHING))

    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
    """How many workers answer all users."""
    revision: Revision
    """Everything that changes behaviour: model, engine, resources, prompt, retrieval."""
    objectives: Objectives = Field(default_factory=Objectives)
    """What every revision must keep, and how much slower than stable a new one may be."""
    strategy: Strategy = Field(default_factory=Strategy)
    """How a new revision takes over."""
    traffic: Traffic = Field(default_factory=Traffic)
    """How users reach the workers."""
    gates: Gates = Field(default_factory=Gates)
    """What judges a new revision while it takes over."""
    revision_history_limit: Annotated[int, Field(ge=1, le=100)] = 10
    """How many old revisions stay stored for `rollback --to`."""

    @model_validator(mode="after")
    def _copies_nothing_by_a_route(self) -> Self:
        copies = any(step.shadow is not None for step in self.strategy.steps)
        if copies and self.traffic.provider == "HTTPRoute":
            raise ValueError(COPIES_NOTHING.message)
        return self
