"""What the gates say of the running step; the place where gates plug in.

A gate is any check of the new revision that yields a verdict (metrics/ and analysis/ make them; the
controller puts them into the observation). The rules, whatever the gate: Failed rolls back and
rejects at once; a step passes only when *every* gate says Passed; Inconclusive and Error (no
answer, NaN, empty, stale) hold the step and never pass it (R05, R08, R11). No gates: none objects.
"""

from __future__ import annotations

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus
from llmrollouts.rollout.checks import Objection
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.observation import Gate


def failed_gate(facts: Facts) -> Gate | None:
    return next((gate for gate in facts.observation.gates if gate.verdict == "Failed"), None)


def describe(gate: Gate) -> str:
    return f"gate {gate.name}: {gate.verdict}, {gate.reason}: {gate.message}"


def gates_pass(status: LLMDeploymentStatus, facts: Facts) -> Objection | None:  # noqa: ARG001
    """The objection of the first gate that does not say Passed."""
    for gate in facts.observation.gates:
        match gate.verdict:
            case "Passed":
                continue
            case "Failed":
                return Objection(Reason.GATE_FAILED, describe(gate))
            case "Frozen":
                return Objection(Reason.GATE_FROZEN, describe(gate))
            case "Inconclusive":
                return Objection(Reason.GATE_INCONCLUSIVE, describe(gate))
            case _:
                return Objection(Reason.GATE_ERROR, describe(gate))
    return None
