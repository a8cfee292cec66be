"""One budget of false rollbacks for everything that one attempt looks at.

Fixed when the attempt starts and split over its stages (the watch after promotion is one) and,
within a stage, over its metrics by weight. An edit in mid-rollout splits only what remains; a
restart of the operator never refills it; ``retry`` is a new attempt with a budget of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Budget:
    """total: the accepted chance of rolling a good revision back, in (0, 0.5); spent: of it,
    what started stages have been allotted."""

    total: float = 0.01
    spent: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.total < 0.5 or not 0 <= self.spent <= self.total * (1 + 1e-12):
            raise ValueError(f"no budget: {self.spent} of {self.total} spent")

    def allot(self, stages_left: int) -> tuple[float, Budget]:
        """The level of the stage that starts now, of ``stages_left`` (this one included)."""
        if stages_left < 1:
            raise ValueError("a stage that starts is at least one stage")
        level = (self.total - self.spent) / stages_left
        return level, replace(self, spent=min(self.total, self.spent + level))


def split_over_metrics(level: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Each metric's level; weights are relative and positive. Valid for any dependence."""
    if not weights or any(weight <= 0 for weight in weights.values()):
        raise ValueError("every metric needs a positive weight")
    whole = sum(weights.values())
    return {name: level * weight / whole for name, weight in weights.items()}
