"""The latency gate of the small world: says what a test wants it to say of the running stage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from llmrollouts.analysis.reach import Reach
from llmrollouts.api.status import Proof, Verdict
from llmrollouts.rollout.observation import LATENCY_GATE, Gate, GateNumbers, MetricNumbers

if TYPE_CHECKING:
    from tests.rollout.world import World


@dataclass
class LatencyGate:
    """Content with everything until it is told otherwise; ``silent`` as one that has just begun."""

    verdict: Verdict = "Passed"
    reason: str = "NoHarm"
    message: str = "no harm seen in 4000 requests"
    proof: Proof = "Proven"
    silent: bool = False
    # Seconds from the fault in the data to its detection.
    delay: float = 6.0
    power: Reach | None = None

    def say(self, verdict: Verdict, reason: str, message: str, proof: Proof = "Collecting") -> None:
        self.verdict, self.reason, self.message, self.proof = verdict, reason, message, proof

    def speak(self, world: World) -> tuple[Gate, ...]:
        attempt = world.status.attempt
        if self.silent or attempt is None or world.spec.gates.latency.mode == "Off":
            return ()
        failed = self.verdict == "Failed"
        return (
            Gate(
                LATENCY_GATE,
                self.verdict,
                self.reason,
                self.message,
                proof=self.proof,
                first_seen_at=world.now - timedelta(seconds=self.delay) if failed else None,
                detected_at=world.now if failed else None,
                # Numbers that change with every round, as those of a real gate do.
                numbers=GateNumbers(
                    canary_requests=int((world.now - attempt.started_at).total_seconds() * 25),
                    control_requests=int((world.now - attempt.started_at).total_seconds() * 100),
                    metrics=(
                        MetricNumbers("ttft", evidence=0.42, needed=2400, p50=1.01, p99=1.02),
                    ),
                    cut_streams=2 if failed else 0,
                ),
                stage=attempt.stage,
                power=self.power,
            ),
        )
