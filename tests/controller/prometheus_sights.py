"""What a round sees of a deployment whose canary is judged by gates from Prometheus."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import AttemptStatus, LLMDeploymentStatus, StepStatus
from llmrollouts.controller.keys import Key
from llmrollouts.rollout.intent import TrafficObservation
from llmrollouts.rollout.observation import Deployment, Observation

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
ADDRESS = "https://prom.example"
KEY = Key("prod", "chat")
STAGE = "bbbb/1/0-Canary-5000"


def make_gate(**given: Any) -> dict[str, Any]:
    return {
        "name": "cost",
        "address": ADDRESS,
        "query": 'cost{r="{{revision}}"}',
        "limit": {"max": "0.25"},
        **given,
    }


def make_status(**given: Any) -> LLMDeploymentStatus:
    return LLMDeploymentStatus(
        **{
            "stable_revision": "aaaa",
            "canary_revision": "bbbb",
            "share": "0.5%",
            "step": StepStatus(index=0, kind="Canary", share="0.5%", started_at=START),
            "attempt": make_attempt(STAGE),
            **given,
        }
    )


def make_attempt(stage: str) -> AttemptStatus:
    return AttemptStatus(
        revision="bbbb", number=1, started_at=START, error_budget=0.01, stage=stage
    )


def observe(*gates: dict[str, Any], status: LLMDeploymentStatus | None = None) -> Observation:
    spec = LLMDeploymentSpec.model_validate(
        {
            "replicas": 2,
            "revision": {"model": {"uri": "file:///models/v1"}},
            "gates": {"prometheus": list(gates)},
        }
    )
    deployment = Deployment(KEY.namespace, KEY.name, "uid", 1, spec, status or make_status())
    return Observation(deployment, "{}", {}, None, (), (), (), frozenset(), TrafficObservation())
