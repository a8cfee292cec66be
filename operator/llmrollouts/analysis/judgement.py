"""What the gate says of a stage so far. The rollout decides what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llmrollouts.analysis.finding import Finding


class Outcome(StrEnum):
    """ROLL_BACK: the canary is worse than stable, and stays so judged for this stage. FREEZE: a
    hard limit is broken and the canary is not worse than stable: going back would help nobody.
    GOOD: no harm was seen, which is no proof (``Judgement.proven``)."""

    ROLL_BACK = "RollBack"
    FREEZE = "Freeze"
    GOOD = "Good"


@dataclass(frozen=True, slots=True)
class ProofLine:
    """One test of the promotion proof. metric: ttft, tpot, e2e; quantile: p50, p95, p99; requests:
    canary requests that it has seen in this attempt; more: about how many are missing at the rate
    of evidence so far (None: it does not grow); left_out: nobody sends such requests."""

    metric: str
    quantile: str
    evidence: float
    needed: float
    accepted: bool
    requests: int
    more: int | None
    left_out: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """finding: the decisive one; findings: of every metric, in a fixed order. proven: the canary
    is shown to be no worse at every quantile of every metric that users use. seconds: arrival
    seconds taken in. first_seen, decided: see ``Finding``. left_out: metrics without any request.
    """

    outcome: Outcome
    finding: Finding | None
    findings: tuple[Finding, ...]
    proven: bool
    proof: tuple[ProofLine, ...]
    canary_requests: int
    control_requests: int
    seconds: int
    first_seen: int | None
    decided: int | None
    left_out: tuple[str, ...]
    message: str
