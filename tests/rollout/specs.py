"""What a user asks for in the tests of rollouts, and the operator's settings in them."""

from __future__ import annotations

from datetime import UTC, datetime

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.spec import LLMDeploymentSpec

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
SETTINGS = OperatorSettings(
    launcher_image="localhost/llm-rollouts-worker:1",
    engine_image_gpu="localhost/engine:1",
    require_digests=False,
)


def make_spec(
    model: str = "one",
    *,
    replicas: int = 4,
    steps: list[dict[str, object]] | None = None,
    latency: str = "Off",
    **strategy: object,
) -> LLMDeploymentSpec:
    given: dict[str, object] = {**strategy}
    if steps is not None:
        given["steps"] = steps
    return LLMDeploymentSpec.model_validate(
        {
            "replicas": replicas,
            "revision": {"model": {"uri": f"file:///models/{model}"}},
            "strategy": given,
            "gates": {"latency": {"mode": latency}},
        }
    )


SHORT_STEPS: list[dict[str, object]] = [
    {"shadow": {"share": "5%", "duration": "1m"}},
    {"canary": {"share": "0.5%", "duration": "1m"}},
    {"canary": {"share": "5%", "duration": "1m"}},
    {"canary": {"share": "50%", "duration": "1m"}},
]
