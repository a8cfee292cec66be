"""All that the gate remembers of a stage: small, frozen, and the same bit for bit after JSON.

``gate`` writes it, the operator stores it every 10 seconds, ``explain`` draws it. It decides
nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from llmrollouts.analysis.eprocess import EvidenceState
from llmrollouts.analysis.evalue import Cell
from llmrollouts.analysis.histogram import Histogram
from llmrollouts.analysis.proof import Proof
from llmrollouts.analysis.standout import Recent

MOST_POINTS: Final = 120
_ROUNDING: Final = 1e-9


class Run(NamedTuple):
    """One e-process. log_e: ln of its evidence with its weight; peak: the most it was; trough: the
    least; rising: the first second after the trough (None: it has not risen since)."""

    wealth: EvidenceState
    log_e: float = 0.0
    peak: float = 0.0
    trough: float = 0.0
    rising: int | None = None

    def move(self, wealth: EvidenceState, log_e: float, second: int) -> Run:
        """The run after one more second."""
        if log_e <= self.trough + _ROUNDING:
            return Run(wealth, log_e, self.peak, min(log_e, self.trough), None)
        rising = second if self.rising is None else self.rising
        return Run(wealth, log_e, max(self.peak, log_e), self.trough, rising)


@dataclass(frozen=True, slots=True)
class History:
    """ln E over the stage for a plot: (second, ln E), one of ``stride`` ticks, at most 120."""

    stride: int = 1
    skipped: int = 0
    points: tuple[tuple[int, float], ...] = ()

    def add(self, second: int, log_e: float) -> History:
        if self.skipped + 1 < self.stride:
            return History(self.stride, self.skipped + 1, self.points)
        points = (*self.points, (second, round(log_e, 3)))
        if len(points) > MOST_POINTS:  # an odd number: the latest point stays
            return History(2 * self.stride, 0, points[::2])
        return History(self.stride, 0, points)


@dataclass(frozen=True, slots=True)
class GateState:
    """runs: by name of the e-process; totals: for each metric the counts so far, one cell for each
    of its thresholds; taken: the last second of each stream; stale: seconds that came twice or too
    late and were ignored; decided: metric -> the second at whose end it decided to roll back.
    recent: the last seconds of each stream, where several canary workers are told apart."""

    stage: str
    runs: Mapping[str, Run]
    totals: Mapping[str, tuple[Cell, ...]]
    proof: Proof
    taken: Mapping[str, int] = field(default_factory=dict)
    stale: int = 0
    decided: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    history: Mapping[str, History] = field(default_factory=dict)
    recent: Mapping[str, Recent] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(
            {
                "stage": self.stage,
                "runs": {name: _run_to_plain(run) for name, run in self.runs.items()},
                "totals": {
                    name: [cell.to_plain() for cell in cells] for name, cells in self.totals.items()
                },
                "proof": self.proof.to_plain(),
                "taken": self.taken,
                "stale": self.stale,
                "decided": self.decided,
                "histograms": {
                    name: [_sparse(both.canary), _sparse(both.control)]
                    for name, both in self.histograms.items()
                },
                "history": {
                    name: [line.stride, line.skipped, line.points]
                    for name, line in self.history.items()
                },
                "recent": {name: recent.to_plain() for name, recent in self.recent.items()},
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> GateState:
        """Raises ValueError when the text is no state."""
        try:
            raw = json.loads(text)
            return cls(
                stage=str(raw["stage"]),
                runs={str(name): _run_from_plain(run) for name, run in raw["runs"].items()},
                totals={
                    str(name): tuple(Cell(*map(int, cell)) for cell in cells)
                    for name, cells in raw["totals"].items()
                },
                proof=Proof.from_plain(raw["proof"]),
                taken={str(name): int(second) for name, second in raw["taken"].items()},
                stale=int(raw["stale"]),
                decided={str(name): int(second) for name, second in raw["decided"].items()},
                histograms={
                    str(name): Histogram(_dense(canary), _dense(control))
                    for name, (canary, control) in raw["histograms"].items()
                },
                history={
                    str(name): History(
                        int(stride), int(skipped), tuple((int(s), float(e)) for s, e in points)
                    )
                    for name, (stride, skipped, points) in raw["history"].items()
                },
                # Older states have none.
                recent={
                    str(name): Recent.from_plain(recent)
                    for name, recent in raw.get("recent", {}).items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no stored state of a gate: {error}") from error


def _run_to_plain(run: Run) -> list[object]:
    state = run.wealth
    return [
        state.wealth, state.ticks, state.bursts, run.log_e, run.peak, run.trough, run.rising,
    ]  # fmt: skip


def _run_from_plain(raw: list[object]) -> Run:
    wealth, ticks, bursts, *logs, rising = raw
    state = EvidenceState.from_plain(wealth, ticks, bursts)
    log_e, peak, trough = (_number(value) for value in logs)
    if rising is not None and not isinstance(rising, int):
        raise ValueError(f"no second: {rising}")
    return Run(state, log_e, peak, trough, rising)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"no number: {value}")
    return float(value)


def _sparse(counts: Mapping[int, int]) -> list[list[int]]:
    return [[bucket, count] for bucket, count in sorted(counts.items())]


def _dense(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    return dict(sorted((int(bucket), int(count)) for bucket, count in pairs))
