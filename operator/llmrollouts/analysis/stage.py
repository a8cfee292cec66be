"""A stage of an attempt: everything that is fixed before its first request is seen.

Thresholds, margin, level and lags are frozen here, when a step starts; the gate only follows
them. That is what makes its promise hold: nothing that it looks at can be chosen by what it saw.
Called by the operator at the start of a step and by replay; never looks at a canary's counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from llmrollouts.analysis.ages import LATE_LAG, PARTS, WHOLE, quick_age
from llmrollouts.analysis.baseline import (
    MIN_BASELINE,
    MIN_OF_METRIC,
    Baseline,
    baseline_measurement,
    choose_reference,
)
from llmrollouts.analysis.counts import Measurement, Metric, Stream
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.thresholds import COMPARED, Thresholds, limit_lag, place_thresholds

__all__ = [
    "MIN_BASELINE",
    "MIN_OF_METRIC",
    "Baseline",
    "Stage",
    "Thresholds",
    "baseline_measurement",
    "choose_reference",
    "freeze_stage",
]


@dataclass(frozen=True)
class Stage:
    """level: the accepted chance of a false rollback in this stage; ticks: its planned length in
    seconds; margin: the ratio by which the canary may be slower at any quantile; reversed: the
    watch after a promotion, where the control is the small arm and nothing is left to prove.

    Raises ValueError when there is no level or no length.
    """

    name: str
    policy: Policy
    level: float
    ticks: int
    margin: float
    canary_workers: int
    thresholds: Mapping[Metric, Thresholds]
    measurement: Measurement
    reversed: bool = False
    streams: tuple[Stream, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.level < 0.5:
            raise ValueError(
                "no error budget is left for this stage: begin a new attempt with retry"
                if self.level <= 0
                else f"a stage's level lies below 0.5, not at {self.level}"
            )
        if self.ticks < 1 or not self.margin >= 1:
            raise ValueError("a stage lasts a second or more, with a margin of 1 or more")
        lags = self.measurement.lags
        streams = (Stream(metric, lag) for metric in lags for lag in lags[metric])
        object.__setattr__(self, "streams", tuple(sorted(streams)))

    @property
    def quick_lag(self) -> float:
        """The age at which failures are read first."""
        return self.measurement.outcome_lags[0]

    def to_json(self) -> str:
        return json.dumps(
            {
                "name": self.name,
                "policy": self.policy.to_plain(),
                "level": self.level,
                "ticks": self.ticks,
                "margin": self.margin,
                "canaryWorkers": self.canary_workers,
                "reversed": self.reversed,
                "thresholds": {m.value: asdict(t) for m, t in self.thresholds.items()},
                "lags": {m.value: lags for m, lags in self.measurement.lags.items()},
                "exact": {m.value: values for m, values in self.measurement.exact.items()},
                "referenceTokens": self.measurement.reference_tokens,
                "outcomeLags": self.measurement.outcome_lags,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Stage:
        """Raises ValueError when the text is no stage."""
        try:
            raw = json.loads(text)
            return cls(
                name=str(raw["name"]),
                policy=Policy.from_plain(raw["policy"]),
                level=float(raw["level"]),
                ticks=int(raw["ticks"]),
                margin=float(raw["margin"]),
                canary_workers=int(raw["canaryWorkers"]),
                reversed=bool(raw["reversed"]),
                thresholds={
                    Metric(name): Thresholds.from_plain(places)
                    for name, places in raw["thresholds"].items()
                },
                measurement=Measurement(
                    lags=_read_seconds(raw["lags"]),
                    exact=_read_seconds(raw["exact"]),
                    reference_tokens=int(raw["referenceTokens"]),
                    outcome_lags=tuple(float(lag) for lag in raw["outcomeLags"]),
                ),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no stored stage: {error}") from error


def _read_seconds(raw: Mapping[str, list[float]]) -> dict[Metric, tuple[float, ...]]:
    return {Metric(name): tuple(float(value) for value in values) for name, values in raw.items()}


def freeze_stage(
    name: str,
    policy: Policy,
    baseline: Baseline | None,
    level: float,
    ticks: int,
    canary_workers: int,
    reversed: bool = False,  # noqa: A002  # the word of the specification
    *,
    whole_ages: bool = False,
) -> Stage:
    """Fix the thresholds of a stage that starts now.

    ``baseline`` None: errors, refusals, connections and hard limits alone are judged, and nothing
    can be proven. whole_ages: requests are read at whole seconds alone. Raises ValueError when the
    baseline is too small.
    """
    if baseline is not None and baseline.requests < MIN_BASELINE:
        raise ValueError(
            f"{baseline.requests} requests of stable were seen; "
            f"{MIN_BASELINE} are needed before thresholds can be set"
        )
    margin = policy.margin_for(1 if reversed else canary_workers)
    histograms = baseline.latency if baseline is not None else {}
    answers = histograms.get(Metric.E2E, ())
    answers = answers if sum(answers) >= MIN_OF_METRIC else ()

    def place(part: float) -> dict[Metric, Thresholds]:
        thresholds: dict[Metric, Thresholds] = {}
        for metric in COMPARED:
            histogram = histograms.get(metric, ())
            if sum(histogram) >= MIN_OF_METRIC:
                thresholds[metric] = place_thresholds(
                    metric, histogram, policy, margin, not reversed, thresholds, part
                )
        return thresholds

    placed = {part: place(part) for part in ((WHOLE,) if whole_ages else PARTS)}
    part = min(placed, key=lambda part: _first_age(placed[part]) + quick_age(answers, part))
    thresholds = placed[part]
    reference = baseline.reference_tokens if baseline is not None else 1
    measurement = _measure(policy, thresholds, reference, quick_age(answers, part))
    return Stage(
        name, policy, level, ticks, margin, canary_workers, thresholds, measurement, reversed
    )


def _first_age(thresholds: Mapping[Metric, Thresholds]) -> float:
    """When a hang shows first: in the first token, or where nobody streams, in the answer."""
    return next((min(thresholds[m].lags) for m in COMPARED if m in thresholds), 0.0)


def _measure(
    policy: Policy, thresholds: Mapping[Metric, Thresholds], reference_tokens: int, quick: float
) -> Measurement:
    """What the workers must count so that every comparison of the stage can be made."""
    lags: dict[Metric, set[float]] = {}
    exact: dict[Metric, set[float]] = {}
    for metric, places in thresholds.items():
        lags.setdefault(metric, set()).update(places.lags, places.proof_lags)
        for x in places.promotion:
            exact.setdefault(metric, set()).update((x, policy.promotion_margin * x))
    for metric, limit in policy.limits.items():
        lags.setdefault(metric, set()).add(limit_lag(metric, limit, thresholds))
        exact.setdefault(metric, set()).add(limit)
    return Measurement(
        lags={metric: tuple(sorted(lags[metric])) for metric in Metric if metric in lags},
        exact={metric: tuple(sorted(exact[metric])) for metric in Metric if metric in exact},
        reference_tokens=reference_tokens,
        outcome_lags=(quick, LATE_LAG),
    )
