"""The form of a decision: an ordered list of small named checks, the first objection counts.

Decides nothing itself. Used by bootstrap, steps, promotion, lapse and their printed summaries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.facts import Facts

REASONS: Final = {str(reason): reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class Objection:
    """Why something does not happen now, for programs and for people.

    evidence: all else is content, and it is the evidence that does not suffice: the deadline of the
    step runs for this.
    """

    reason: Reason
    message: str
    evidence: bool = False


Check: TypeAlias = Callable[[LLMDeploymentStatus, Facts], Objection | None]


def first_objection(
    checks: Sequence[Check], status: LLMDeploymentStatus, facts: Facts
) -> Objection | None:
    return next((found for check in checks if (found := check(status, facts)) is not None), None)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
