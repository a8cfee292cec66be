"""Reads a policy: `objectives` and `strategy` of an LLMDeployment, or the whole of one.

The same types as the operator's check it, so a policy that passes here passes there. It decides
nothing. Called by `kubectl llm replay` and `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError

from llmrollouts.analysis.budget import Budget
from llmrollouts.analysis.policy import Policy
from llmrollouts.api import labels
from llmrollouts.api.deployment import describe_errors
from llmrollouts.api.duration import parse_duration
from llmrollouts.api.share import Share
from llmrollouts.api.spec import CanaryStep, Objectives, ShadowStep, Strategy
from llmrollouts.cli.failure import BadInput
from llmrollouts.cli.untapped import Untapped, read_untapped
from llmrollouts.rollout.policy import combine_policy

_LARGEST: Final = 1024 * 1024  # bytes
_PARTS: Final = {"objectives", "strategy"}


@dataclass(frozen=True)
class PlannedStep:
    """One step of a strategy. kind: Shadow or Canary; share: of the users' requests, a fraction;
    seconds: its length; level: the chance of a false rollback that is allotted to it."""

    kind: str
    share: float
    share_text: str
    seconds: int
    min_requests: int
    level: float


@dataclass(frozen=True)
class PolicyFile:
    """What a policy file says. replicas: of the LLMDeployment, None where there is none. untapped:
    where its engine has no tap."""

    policy: Policy
    strategy: Strategy
    steps: tuple[PlannedStep, ...]
    replicas: int | None
    untapped: Untapped | None = None


def read_policy(path: Path) -> PolicyFile:
    """Raises BadInput with one sentence."""
    raw = _load(path)
    replicas, untapped = None, None
    if "kind" in raw or "spec" in raw:
        if raw.get("kind", labels.KIND) != labels.KIND:
            raise BadInput(f"{path} holds a {raw['kind']}, not an {labels.KIND}")
        spec = raw.get("spec")
        if not isinstance(spec, dict):
            raise BadInput(f"{path} has no spec")
        replicas, untapped = _read_replicas(spec.get("replicas")), read_untapped(spec)
        raw = {name: spec[name] for name in _PARTS if name in spec}
    unknown = sorted(str(name) for name in raw.keys() - _PARTS)
    if unknown:
        raise BadInput(f"{path}: {unknown[0]} is no part of a policy: objectives and strategy are")
    try:
        objectives = Objectives.model_validate(_part(raw, "objectives"))
        strategy = Strategy.model_validate(_part(raw, "strategy"))
        policy = combine_policy(objectives, strategy)
    except ValidationError as error:
        root = error.title.lower()
        raise BadInput(f"{path}: {describe_errors(error, root)}") from error
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from error
    return PolicyFile(policy, strategy, _plan_steps(policy, strategy), replicas, untapped)


def _part(raw: dict[str, object], name: str) -> object:
    """Absent and left empty say the same: all defaults."""
    given = raw.get(name)
    return {} if given is None else given


def _load(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as problem:
        raise BadInput(f"{path} cannot be read: {problem.strerror}") from problem
    if len(data) > _LARGEST:
        raise BadInput(f"{path} is larger than a policy can be ({_LARGEST:,} bytes)")
    try:
        documents = [document for document in yaml.safe_load_all(data) if document is not None]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        first = str(problem).splitlines()[0]
        mark = getattr(problem, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark is not None else ""
        raise BadInput(f"{path} is neither YAML nor JSON: {first}{place}") from problem
    if not documents:
        raise BadInput(f"{path} is empty: a policy has objectives and strategy")
    wanted = [d for d in documents if isinstance(d, dict) and d.get("kind") == labels.KIND]
    chosen = wanted or documents
    if len(chosen) != 1 or not isinstance(chosen[0], dict):
        if len(chosen) > 1:
            raise BadInput(f"{path} holds {len(chosen)} policies: give a file with one")
        raise BadInput(f"{path} holds no policy: it has the fields objectives and strategy")
    return {str(name): value for name, value in chosen[0].items()}


def _read_replicas(given: object) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 1):
        return given
    raise BadInput(f"spec.replicas is a whole number from 1 on, not {given!r}")


def _plan_steps(policy: Policy, strategy: Strategy) -> tuple[PlannedStep, ...]:
    """The steps with the part of the budget that each gets, as the operator allots it: the watch
    after the promotion is one stage more."""
    budget = Budget(policy.error_budget)
    steps = []
    for number, step in enumerate(strategy.steps):
        part: ShadowStep | CanaryStep | None = step.shadow or step.canary
        if part is None:
            raise BadInput(f"strategy.steps[{number}] is neither shadow nor canary")
        level, budget = budget.allot(len(strategy.steps) - number + 1)
        steps.append(
            PlannedStep(
                kind="Shadow" if step.shadow is not None else "Canary",
                share=Share.parse(part.share).ppm / 1e6,
                share_text=part.share,
                seconds=max(1, round(parse_duration(part.duration))),
                min_requests=part.min_requests,
                level=level,
            )
        )
    return tuple(steps)
