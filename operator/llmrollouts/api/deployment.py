"""An LLMDeployment's manifest to typed values and back; decides nothing.

The API server has checked most of a spec; what it could not check, or what an older CRD let in,
ends here as ``InvalidSpec`` with a message for people. A status is never trusted: anybody with
the right may have edited it, so nonsense yields an empty status and a note, and the operator
rebuilds it from the children. Called by controller/observe and controller/act.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmrollouts.api.manifest import Manifest
from llmrollouts.api.spec import LLMDeploymentSpec
from llmrollouts.api.status import LLMDeploymentStatus, Verdict, WrittenStatus
from llmrollouts.api.texts import PATTERN_MEANINGS

_GRAVITY: Final[tuple[Verdict, ...]] = ("Failed", "Frozen", "Error", "Inconclusive", "Passed")


class InvalidSpec(ValueError):
    """The spec cannot be used until a person changes it; the message says what to change."""


@dataclass(frozen=True, slots=True)
class StatusReading:
    """``status`` as read; ``problem`` is None, or says why an empty one was taken instead."""

    status: LLMDeploymentStatus
    problem: str | None = None


def read_spec(manifest: Manifest) -> LLMDeploymentSpec:
    """The spec. Raises InvalidSpec."""
    try:
        return LLMDeploymentSpec.model_validate(manifest.get("spec"))
    except ValidationError as error:
        raise InvalidSpec(describe_errors(error, "spec")) from error


def read_status(manifest: Manifest) -> StatusReading:
    """The status; never raises on its content."""
    given = manifest.get("status")
    if given is None:
        return StatusReading(LLMDeploymentStatus())
    try:
        return StatusReading(LLMDeploymentStatus.model_validate(given))
    except ValidationError as error:
        return StatusReading(LLMDeploymentStatus(), describe_errors(error, "status"))


def write_status(manifest: Manifest, status: LLMDeploymentStatus) -> Manifest:
    """``manifest`` with ``status`` in the form of the API (within the CRD's bounds)."""
    written = WrittenStatus.model_validate(
        {
            **status.model_dump(),
            "step_text": _print_step(manifest, status),
            "verdict": summarize_verdicts(status),
        }
    )
    return {**manifest, "status": written.model_dump(mode="json", by_alias=True, exclude_none=True)}


def summarize_verdicts(status: LLMDeploymentStatus) -> str | None:
    """The gravest verdict in a word or two; None when no gate has spoken."""
    if not status.gates:
        return None
    gravest = min(status.gates, key=lambda gate: _GRAVITY.index(gate.verdict))
    if gravest.verdict != "Passed":
        return f"{gravest.verdict}: {gravest.reason}"
    proving = any(gate.proof == "Collecting" for gate in status.gates)
    return "Passed so far" if proving else "Passed"


def _print_step(manifest: Manifest, status: LLMDeploymentStatus) -> str | None:
    if status.step is None:
        return None
    try:
        count = len(read_spec(manifest).strategy.steps)
    except InvalidSpec:
        return f"{status.step.index + 1} {status.step.kind}"
    return f"{status.step.index + 1}/{count} {status.step.kind}"


def describe_errors(error: ValidationError, root: str) -> str:
    """At most three of the errors as ``spec.strategy.steps[0].share: what is wrong``."""
    problems = error.errors(include_url=False, include_input=False)
    lines = [f"{_print_path(root, problem['loc'])}: {_say(problem)}" for problem in problems[:3]]
    if len(problems) > 3:
        lines.append(f"and {len(problems) - 3} more")
    return "; ".join(lines)


def _say(problem: ErrorDetails) -> str:
    """What is wrong, without words that only programmers of the checker know."""
    pattern = (problem.get("ctx") or {}).get("pattern")
    meaning = PATTERN_MEANINGS.get(str(pattern)) or _PLAIN.get(problem["type"])
    return meaning or problem["msg"].removeprefix("Value error, ")


_PLAIN: Final = {
    "extra_forbidden": "there is no field of this name",
    "missing": "this field must be given",
    "string_type": "this is a text: put it in quotes",
    "int_type": "this is a whole number",
    "int_from_float": "this is a whole number",
    "int_parsing": "this is a whole number",
    "bool_type": "this is true or false",
    "bool_parsing": "this is true or false",
    "list_type": "this is a list",
    "tuple_type": "this is a list",
    "dict_type": "this holds fields of its own",
    "model_type": "this holds fields of its own",
    "model_attributes_type": "this holds fields of its own",
}


def _print_path(root: str, location: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in location)
    return root + "".join(parts)
