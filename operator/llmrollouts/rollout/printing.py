"""The status in the form in which it is committed, and whether it is worth a commit at all.

Numbers that change with every round (elapsed time, measured shares) are committed with the step's
clock, every ten seconds; in between the very status that was read is returned, so that nothing is
written. Called by plan() as the last thing.
"""

from __future__ import annotations

from typing import Any

from llmrollouts.api.share import Share
from llmrollouts.api.status import Condition, LLMDeploymentStatus, Phase
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.workers import selector


def finish(
    status: LLMDeploymentStatus,
    before: LLMDeploymentStatus,
    phase: Phase,
    message: str,
    conditions: list[Condition],
    facts: Facts,
) -> LLMDeploymentStatus:
    """The status to commit; ``before`` itself where nothing material changed."""
    stable, canary = status.stable_revision, status.canary_revision
    serving = stable if stable is not None else None
    printed = status.model_copy(
        update={
            "phase": phase,
            "message": message,
            "conditions": conditions,
            "observed_generation": facts.deployment.generation,
            "measured_share": _measured(facts.traffic.recent_live.get(canary or "")),
            "measured_shadow_share": _measured(facts.traffic.recent_mirrored.get(canary or "")),
            "replicas": len(facts.pods(serving)),
            "ready_replicas": facts.ready(serving),
            "selector": selector(status, facts.deployment.name),
        }
    )
    # Through the model once more: texts are cut to their bounds as the API server will read them.
    sound = LLMDeploymentStatus.model_validate(printed.model_dump())
    quiet = _is_rolling(sound)
    if _material(sound, clock_runs=quiet) == _material(before, clock_runs=quiet):
        return before
    return sound.model_copy(update={"epoch": facts.epoch})


def _is_rolling(status: LLMDeploymentStatus) -> bool:
    return status.step is not None and status.step.running_since is not None


def _material(status: LLMDeploymentStatus, *, clock_runs: bool) -> dict[str, Any]:
    """What a change of is worth a write. While the clock runs, texts wait for its next commit."""
    told = status.model_dump()
    for name in ("epoch", "measured_share", "measured_shadow_share"):
        told.pop(name)
    if not clock_runs:
        return told
    told.pop("message")
    for condition in told["conditions"]:
        condition.pop("message")
    return told


def _measured(fraction: float | None) -> str | None:
    if fraction is None or not 0 <= fraction <= 1:
        return None
    return str(Share(round(fraction * 1_000_000)))
