"""The promotion proof of an attempt: one test for each metric and quantile, over all its stages.

E2E's quantiles are read at ages of their own, so each test has its own clock. ``Proof`` is what
must survive a restart and what the next stage carries on with; the test is ``noninferiority``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.noninferiority import (
    PROMOTION_QUANTILES,
    ProofState,
    grow_proof,
    proof_evidence,
    start_proof,
)

PROOF_NAMES: Final = tuple(f"p{round(100 * u)}" for u in PROMOTION_QUANTILES)
_FRESH: Final = start_proof(1)


@dataclass(frozen=True, slots=True)
class Proof:
    """tests: by "<metric>:<quantile>"; requests: canary requests that each has seen."""

    tests: Mapping[str, ProofState] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)

    def take(self, key: str, requests: int, gains: Sequence[float], beta: float) -> Proof:
        """One arrival second of one test: ``requests`` of the canary, and ln e of each bet."""
        if not requests:
            return self
        tests = {**self.tests, key: grow_proof(self.tests.get(key, _FRESH), (gains,), beta)}
        return Proof(tests, {**self.requests, key: self.requests.get(key, 0) + requests})

    def accepted(self, key: str) -> bool:
        return key in self.tests and self.tests[key].proven

    def evidence(self, key: str) -> float:
        """E of one test; 1 before its first request."""
        return proof_evidence(self.tests.get(key, _FRESH).log_wealth[0])

    def to_plain(self) -> dict[str, object]:
        return {
            key: [state.log_wealth[0], state.accepted[0], self.requests.get(key, 0)]
            for key, state in self.tests.items()
        }

    @classmethod
    def from_plain(cls, raw: Mapping[str, list[object]]) -> Proof:
        """Raises TypeError or ValueError when ``raw`` is no proof."""
        tests, requests = {}, {}
        for key, (wealth, accepted, seen) in raw.items():
            if not isinstance(wealth, list) or len(wealth) != len(_FRESH.log_wealth[0]):
                raise ValueError(f"the proof of {key} has no wealth for each bet")
            if not isinstance(seen, int) or not isinstance(accepted, bool):
                raise ValueError(f"the proof of {key} has no count of requests")
            tests[key] = ProofState((tuple(float(value) for value in wealth),), (accepted,))
            requests[key] = seen
        return cls(tests, requests)

    def to_json(self) -> str:
        return json.dumps(self.to_plain())

    @classmethod
    def from_json(cls, text: str) -> Proof:
        """Raises ValueError when the text is no proof."""
        try:
            return cls.from_plain(json.loads(text))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"this is no stored proof: {error}") from error


def proof_key(metric: Metric, quantile: int) -> str:
    """quantile: its place in ``PROMOTION_QUANTILES``."""
    return f"{metric.value}:{PROOF_NAMES[quantile]}"
