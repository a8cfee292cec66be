"""Decides whether the worker may take requests. Pure: facts in, reasons out.

The supervisor keeps the facts, `/readyz` shows the answer. A worker is ready when no reason
against it is left.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What is known about this worker at one moment."""

    engine_running: bool
    engine_answered: bool  # /health said 200 since the start
    files_verified: bool
    warmed_up: bool
    probe_failures: int  # in a row
    probe_failure_limit: int
    last_probe_error: str
    draining: bool


def reasons_against(facts: Facts) -> list[str]:
    """Why the worker is not ready; an empty list means ready."""
    reasons = []
    if facts.draining:
        reasons.append("draining: no new requests are taken")
    if not facts.engine_running:
        reasons.append("the engine is not running")
    elif not facts.engine_answered:
        reasons.append("the engine is starting")
    if not facts.files_verified:
        reasons.append("the model's files are still being verified")
    if facts.engine_answered and not facts.warmed_up:
        reasons.append("the engine is warming up")
    if facts.probe_failures >= facts.probe_failure_limit:
        reasons.append(
            f"the last {facts.probe_failures} idle probes failed: {facts.last_probe_error}"
        )
    return reasons
