"""Where gates plug in: whatever judges a running stage is a ``GateSource``.

``observe`` asks every source in each round and puts the verdicts into the observation; the state
machine weighs them with the step's own conditions. A source sees the observation and starts or
stops its own measurement by it; it answers from what it already knows, so a slow one never delays
a round, and its failure is a gate with the verdict Error, never an exception. A verdict that
changes wakes the round by a nudge. Wired in controller/parts.py.
"""

from __future__ import annotations

from typing import Protocol

from llmrollouts.controller.keys import Key
from llmrollouts.rollout.observation import Gate, Observation


class GateSource(Protocol):
    def judge(self, observation: Observation) -> tuple[Gate, ...]:
        """The verdicts on the deployment's running stage, as of now; ``observation`` has no gates
        yet. Must not raise or wait."""

    def forget(self, key: Key) -> None:
        """The deployment is gone: stop what is measured for it."""


class NoGates:
    """Steps are held by their duration and their minimum of requests alone."""

    def judge(self, observation: Observation) -> tuple[Gate, ...]:  # noqa: ARG002
        return ()

    def forget(self, key: Key) -> None:
        pass


class AllGates:
    """Several sources as one, in their order."""

    def __init__(self, *sources: GateSource) -> None:
        self._sources = sources

    def judge(self, observation: Observation) -> tuple[Gate, ...]:
        return tuple(gate for source in self._sources for gate in source.judge(observation))

    def forget(self, key: Key) -> None:
        for source in self._sources:
            source.forget(key)
