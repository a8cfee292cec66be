"""What a step can find where the engines have no tap: sizing at the bounds of their histograms.

Stable's latency is rounded up and the canary's down to the bounds between which it lies, so a
regression is found only when it carries enough requests over the next bound. Where the bounds lie
beside stable's latencies therefore decides, and the latencies themselves are asked for: here not
only ratios count. The thresholds are the gate's own, of a stage that is frozen as the operator
freezes it, and the delays are those of ``sizing`` at the chances that follow.

Nobody knows a median to a hair, so the worst is told of medians up to a tenth beside the given one
and of half the spread. The launcher's probes are in the canary's histograms and not in stable's: as
many of the canary's requests as there can be probes are taken to be fast and well.

Of a running step stable's histogram is known, and nothing inside its buckets: there a request is
taken to have been as fast as its bucket allows before it became slower, so more may be found than
is told. It decides nothing. Called by `kubectl llm plan` and by controller/power.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

from llmrollouts.analysis.baseline import Baseline
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import BOUNDS, BUCKETS, OVERFLOW
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.reach import EFFECTS, Effect, Power, Reach, describe_reach
from llmrollouts.analysis.rounding import place_bounds
from llmrollouts.analysis.sizing import (
    Chances,
    Setting,
    expect_crossing,
    make_setting,
    nearest_rate,
)
from llmrollouts.analysis.stage import Stage, Thresholds, freeze_stage

# An idle worker is probed once a second, a busy one less often.
PROBES: Final = 1.0
_BESIDE: Final = (0.9, 1.0, 1.1)
_SPREADS: Final = (0.5, 1.0)
# Enough for one of them in the last thousandth.
_REQUESTS: Final = 1_000_000
_NORMAL: Final = NormalDist()
_SLOWER: Final = tuple(effect for effect in EFFECTS if not effect.failing)
_ROUNDED: Final = (
    "it is judged by the engine's own histograms, over whose bounds a slower revision must carry "
    "its requests, and in which requests that hang are missing"
)


@dataclass(frozen=True, slots=True)
class Latency:
    """One latency of stable, lognormal. median: seconds; sigma: standard deviation of its
    logarithm; bounds: of the engine's histogram, in seconds, rising, the last one infinite."""

    metric: Metric
    median: float
    sigma: float
    bounds: tuple[float, ...]

    def neighbours(self) -> Iterator[Latency]:
        """What it may as well be."""
        for beside in _BESIDE:
            for spread in _SPREADS:
                yield replace(self, median=beside * self.median, sigma=spread * self.sigma)

    def fill(self, effect: Effect | None = None) -> tuple[float, ...]:
        """The part of the requests in each bucket of the engine's histogram."""
        below = [self._below(bound, effect) for bound in self.bounds]
        return tuple(b - a for a, b in zip([0.0, *below[:-1]], below, strict=True))

    def _below(self, seconds: float, effect: Effect | None) -> float:
        if math.isinf(seconds):
            return 1.0
        place = math.log(seconds / self.median) / self.sigma
        if effect is None:
            return _NORMAL.cdf(place)
        slow = _NORMAL.cdf(place - math.log(effect.ratio) / self.sigma)
        return effect.touched * slow + (1 - effect.touched) * _NORMAL.cdf(place)


@dataclass(frozen=True, slots=True)
class RoundedStep:
    """A step of engines without the tap. canary, control: compared requests a second; workers: of
    the canary; level, seconds: as of any stage."""

    policy: Policy
    level: float
    seconds: int
    workers: int
    canary: float
    control: float


def find_rounded_power(step: RoundedStep, latencies: Sequence[Latency]) -> tuple[Power, ...]:
    """Each effect's delay: of each latency alone, then of failures."""
    probes = PROBES * step.workers if step.canary else 0.0
    stage = freeze_rounded(step, latencies)
    setting = make_setting(stage, step.canary + probes, step.control)
    whole = step.canary / setting.canary if step.canary else 0.0
    powers = []
    for latency in latencies:
        others = [each for each in latencies if each.metric is not latency.metric]
        worlds = [
            (each, freeze_rounded(step, [*others, each]).thresholds[latency.metric])
            for each in latency.neighbours()
        ]
        for effect in _SLOWER:
            cases = [_find_chances(each, at, effect, whole) for each, at in worlds]
            worst = min(cases, key=_speak)
            powers.append(expect_crossing(effect.of(latency.metric.value), worst, setting))
    return (*powers, *_find_failures(setting, whole))


def find_rounded_reach(stage: Stage, stable: Baseline, rate: float, control_rate: float) -> Reach:
    """What a running step can find at its real rates; the canary's has the probes in it.
    ``stable``: as rounded up, by which the stage's thresholds were fixed."""
    setting = make_setting(stage, nearest_rate(rate), nearest_rate(control_rate))
    whole = max(0.0, 1 - PROBES * stage.canary_workers / rate) if rate else 0.0
    powers = [
        expect_crossing(
            effect.of(metric.value),
            _observe_chances(stable.latency.get(metric, ()), places, effect, whole),
            setting,
        )
        for metric, places in stage.thresholds.items()
        for effect in _SLOWER
    ]
    found = describe_reach((*powers, *_find_failures(setting, whole)), rate)
    return replace(found, message=f"{found.message}; {_ROUNDED}")


def _find_failures(setting: Setting, whole: float) -> list[Power]:
    base = setting.stable_errors
    return [
        expect_crossing(effect, ((whole * (base + (1 - base) * effect.failing), base),), setting)
        for effect in EFFECTS
        if effect.failing
    ]


def freeze_rounded(step: RoundedStep, latencies: Sequence[Latency]) -> Stage:
    """The stage as the operator would freeze it: stable's baseline is rounded up."""
    stable = round_stable(latencies)
    return freeze_stage("supposed", step.policy, stable, step.level, step.seconds, step.workers)


def round_stable(latencies: Sequence[Latency], requests: int = _REQUESTS) -> Baseline:
    """What so many requests leave in the engines' histograms."""
    histograms = {}
    for latency in latencies:
        counts = [0] * (BUCKETS + 1)
        places = place_bounds(latency.bounds, "up")
        for bucket, part in zip(places, latency.fill(), strict=True):
            counts[bucket] += round(requests * part)
        histograms[latency.metric] = tuple(counts)
    return Baseline(histograms)


def _find_chances(
    latency: Latency, thresholds: Thresholds, effect: Effect, whole: float
) -> Chances:
    """At each threshold. whole: the part of the canary's observations that are requests."""
    up, down = place_bounds(latency.bounds, "up"), place_bounds(latency.bounds, "down")
    stable, slower = latency.fill(), latency.fill(effect)
    return tuple(
        (
            whole * sum(part for at, part in zip(down, slower, strict=True) if at > canary_bound),
            sum(part for at, part in zip(up, stable, strict=True) if at > bound),
        )
        for bound, canary_bound in zip(
            thresholds.control_bounds, thresholds.canary_bounds, strict=True
        )
    )


def _observe_chances(
    histogram: Sequence[int], thresholds: Thresholds, effect: Effect, whole: float
) -> Chances:
    """At each threshold, by stable's histogram. Only bounds in which requests fell are known: the
    next of these above a threshold is no lower than the engine's own next one."""
    counts = [(bucket, count) for bucket, count in enumerate(histogram) if count]
    total = sum(count for _, count in counts)
    # Each bucket's own lower bound is no lower than the bound of the bucket before, a step of the
    # grid less, because the engine's bounds lie between two of the grid.
    below = [0.0, *(BOUNDS[bucket - 1] if bucket else 0.0 for bucket, _ in counts)]
    slowest = list(zip(below, (count for _, count in counts), strict=False))

    def exceed(seconds: float, ratio: float) -> float:
        return sum(count for lower, count in slowest if lower * ratio >= seconds) / max(1, total)

    chances = []
    for bound, canary_bound in zip(
        thresholds.control_bounds, thresholds.canary_bounds, strict=True
    ):
        over = sum(count for bucket, count in counts if bucket > bound)
        reach = next((BOUNDS[b] for b, _ in counts if canary_bound < b < OVERFLOW), math.inf)
        slow = exceed(reach, effect.ratio)
        canary = effect.touched * slow + (1 - effect.touched) * exceed(reach, 1.0)
        # One more than was seen: rare is not never.
        chances.append((whole * canary, (over + 1) / (total + 1)))
    return tuple(chances)


def _speak(chances: Chances) -> float:
    """How much one request tells, in nats, at the threshold that tells most: orders the cases."""
    return max(_divergence(min(a, 1 - 1e-12), min(max(b, 1e-9), 1 - 1e-12)) for a, b in chances)


def _divergence(canary: float, stable: float) -> float:
    if canary <= stable:
        return 0.0
    over = canary * math.log(canary / stable)
    return over + (1 - canary) * math.log((1 - canary) / (1 - stable))
