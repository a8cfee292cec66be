"""Where gates plug in: whatever judges a running step is a ``GateSource``.

``observe`` asks every source in each round and puts the verdicts into the observation; the state
machine weighs them with the step's own conditions. A source answers from what it already knows
(it measures on its own time), so a slow one never delays a round, and its failure is a gate with
the verdict Error, never an exception. Wired in controller/operator.py.
"""

from __future__ import annotations

from typing import Protocol

from llmrollouts.rollout.observation import Deployment, Gate


class GateSource(Protocol):
    def read_gates(self, deployment: Deployment) -> tuple[Gate, ...]:
        """The verdicts on the deployment's running step, as of now. Must not raise or wait."""


class NoGates:
    """Steps are held by their duration and their minimum of requests alone."""

    def read_gates(self, deployment: Deployment) -> tuple[Gate, ...]:  # noqa: ARG002
        return ()
