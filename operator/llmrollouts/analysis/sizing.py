"""What a step can find, how fast and with how many requests, before anybody runs it.

The evidence of the gate grows by the mean of its capped bets, second after second, with a spread
that follows from the same counts. Both are computed here from the gate's own bets (``log_e``) over
the law of one second's counts: Poisson arrivals, each over a threshold with the chance that the
effect gives it. The delay is then the second at which the mixture of all bets crosses 1/level:
with the mean growth for the median, with growth 1.645 standard deviations lower for the 95 of 100.

The law of a latency is lognormal around any median: only ratios count. ``sigma`` is the standard
deviation of its logarithm; 0.5 is an even load of like prompts, a mixture of short and long
prompts has 0.6 to 1.2 and needs up to six times as many requests. It decides nothing. Called by
`kubectl llm plan` and, for a running step, by controller/power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final, TypeAlias

import numpy as np

from llmrollouts.analysis.eprocess import (
    ERROR_BETS,
    ERROR_CAP,
    LATENCY_BETS,
    QUANTILES,
    TICK_CAP,
    Bet,
)
from llmrollouts.analysis.evalue import FloatArray
from llmrollouts.analysis.evalues import IntArray, log_e_many
from llmrollouts.analysis.gateplan import ERRORS, split_level
from llmrollouts.analysis.grid import BUCKETS, GROWTH, buckets_in
from llmrollouts.analysis.policy import Policy
from llmrollouts.analysis.reach import EFFECTS, Effect, Power, Reach, describe_reach
from llmrollouts.analysis.stage import MIN_BASELINE, Baseline, Stage, freeze_stage
from llmrollouts.analysis.thresholds import COMPARED
from llmrollouts.analysis.tick import MIN_CANARY_REQUESTS

# For each threshold: that a request of the canary exceeds it, and that one of stable does.
Chances: TypeAlias = tuple[tuple[float, float], ...]

SIGMA: Final = 0.5
STABLE_ERRORS: Final = 0.001
_SLOW_LUCK: Final = 1.645  # standard deviations: 95 of 100 runs are quicker
_START_WEIGHT: Final = 0.5
_EVERY_SECOND_UP_TO: Final = 3600
_STEP: Final = 1.1
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Setting:
    """What a step gives the gate. canary, control: requests a second that are compared; margin:
    ratio; latency_level, error_level: the chance of a false alarm allotted to one latency metric
    and to the errors; seconds: the length of the step."""

    canary: float
    control: float
    margin: float
    latency_level: float
    error_level: float
    seconds: int
    sigma: float = SIGMA
    stable_errors: float = STABLE_ERRORS

    def __post_init__(self) -> None:
        if not (self.canary >= 0 and self.control >= 0 and self.seconds >= 1 and self.sigma > 0):
            raise ValueError("rates are not negative, a step lasts a second or more, sigma > 0")


def find_power(setting: Setting, effects: Sequence[Effect] = EFFECTS) -> tuple[Power, ...]:
    """Each effect's delay in this step."""
    return tuple(expect_delay(effect, setting) for effect in effects)


def expect_delay(effect: Effect, setting: Setting) -> Power:
    """The delay of one effect. A step without canary or control requests finds nothing."""
    if effect.failing:
        base = setting.stable_errors
        chances: Chances = ((base + (1 - base) * effect.failing, base),)
    else:
        chances = tuple(
            (_chance_over(effect, setting, quantile), 1 - quantile) for quantile in QUANTILES
        )
    return expect_crossing(effect, chances, setting)


def expect_crossing(effect: Effect, chances: Chances, setting: Setting) -> Power:
    """The delay of an effect by which requests exceed the gate's thresholds (or fail) with these
    chances."""
    if setting.canary == 0 or setting.control == 0:
        return Power(effect, None, None)
    if effect.failing:
        bets, cap, level, least = ERROR_BETS, ERROR_CAP, setting.error_level, 0.0
    else:
        bets, cap, level = LATENCY_BETS, TICK_CAP, setting.latency_level
        least = MIN_CANARY_REQUESTS / setting.canary
    mean, deviation = _growth(
        _rounded(setting.canary), _rounded(setting.control), chances, bets, cap
    )
    found = (
        _first_crossing(mean, deviation, luck, level, setting.seconds) for luck in (0, _SLOW_LUCK)
    )
    median, p95 = (_at_least(second, least, setting.seconds) for second in found)
    return Power(effect, median, p95)


def _at_least(second: float | None, least: float, longest: int) -> float | None:
    """Never sooner than the fewest requests are in."""
    if second is None or least > longest:
        return None
    return max(second, float(math.ceil(least)))


def _rounded(rate: float) -> float:
    """Two digits are enough, and make the cache worth while."""
    return float(f"{rate:.2g}")


def _chance_over(effect: Effect, setting: Setting, quantile: float) -> float:
    """That a canary request exceeds margin times stable's quantile."""
    # The gate rounds the margin up to whole buckets.
    margin = buckets_in(setting.margin) * math.log(GROWTH)
    threshold = _NORMAL.inv_cdf(quantile) + margin / setting.sigma
    slow = 1 - _NORMAL.cdf(threshold - math.log(effect.ratio) / setting.sigma)
    return effect.touched * slow + (1 - effect.touched) * (1 - _NORMAL.cdf(threshold))


@lru_cache(maxsize=4096)
def _growth(
    canary: float,
    control: float,
    chances: Chances,
    bets: tuple[Bet, ...],
    cap: float,
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of one second's gain of each bet, in nats."""
    means, deviations = np.empty(len(bets)), np.empty(len(bets))
    for threshold, (over, stable_over) in enumerate(chances):
        places = [i for i, bet in enumerate(bets) if bet.threshold == threshold]
        logs = np.log(np.array([bets[i].omega for i in places]))
        weights, cells = _cells(canary, control, over, stable_over)
        gains = log_e_many(cells, logs, cap)
        mean = weights @ gains
        means[places] = mean
        deviations[places] = np.sqrt(weights @ (gains - mean) ** 2)
    return means, deviations


def _cells(
    canary: float, control: float, over: float, stable_over: float
) -> tuple[FloatArray, IntArray]:
    """The counts of one second: probabilities, shape (n,), and cells, shape (n, 4)."""
    means = (canary * over, canary * (1 - over), control * stable_over, control * (1 - stable_over))
    # Many requests scatter little beside their number, and cost more each.
    nodes = (24, 12, 8, 2) if canary < 50 else (10, 3, 4, 1)
    parts = [_poisson_nodes(mean, most) for mean, most in zip(means, nodes, strict=True)]
    weights = np.array([1.0])
    for part, _ in parts:
        weights = np.outer(weights, part).ravel()
    counts = np.array(np.meshgrid(*(values for _, values in parts), indexing="ij"))
    canary_over, canary_under, control_over, control_under = counts.reshape(len(parts), -1)
    cells = (canary_over, canary_over + canary_under, control_over, control_over + control_under)
    return weights, np.stack(cells, axis=1)


def _poisson_nodes(mean: float, most: int) -> tuple[FloatArray, IntArray]:
    """Counts and their weights, of the same mean: all that matter where these are few, else
    ``most`` equally likely groups, each at the two whole numbers around its own mean."""
    values, weights = _poisson_law(mean)
    if len(values) <= most:
        return weights, values
    # The sum of the values up to a chance u is piecewise linear in u: its steps are the groups.
    chance = np.concatenate([[0.0], np.cumsum(weights)])
    partial = np.concatenate([[0.0], np.cumsum(weights * values)])
    centres = np.diff(np.interp(np.linspace(0, chance[-1], most + 1), chance, partial)) * most
    below = np.floor(centres + 1e-9).astype(np.int64)
    upper = np.clip(centres - below, 0, 1)
    nodes, places = np.unique(np.concatenate([below, below + 1]), return_inverse=True)
    joined = np.bincount(places, np.concatenate([1 - upper, upper]) / most)
    return np.asarray(joined, dtype=np.float64), nodes.astype(np.int64)


def _poisson_law(mean: float) -> tuple[IntArray, FloatArray]:
    """All counts but the rarest 1 in 500,000, with their chances."""
    reach = 6 * math.sqrt(mean) + 12
    values = np.arange(max(0, math.floor(mean - reach)), math.ceil(mean + reach) + 1)
    if mean <= 0:
        return np.zeros(1, dtype=np.int64), np.ones(1)
    logs = values * math.log(mean) - mean - np.array([math.lgamma(n + 1) for n in values.tolist()])
    weights = np.exp(logs)
    within = np.cumsum(weights)
    kept = (within > 1e-6) & (within - weights < 1 - 1e-6)
    return values[kept], weights[kept] / weights[kept].sum()


def _first_crossing(
    mean: FloatArray, deviation: FloatArray, luck: float, level: float, longest: int
) -> float | None:
    """The first second at which the mixture of bets reaches 1/level; None: not by ``longest``."""
    seconds = np.arange(1, min(longest, _EVERY_SECOND_UP_TO) + 1, dtype=float)
    if longest > _EVERY_SECOND_UP_TO:
        later = np.geomspace(_EVERY_SECOND_UP_TO, longest, 512)[1:]
        seconds = np.concatenate([seconds, later])
    grown = mean * seconds[:, None] - luck * deviation * np.sqrt(seconds)[:, None]
    top = grown.max(axis=1)
    mixed = top + np.log(np.exp(grown - top[:, None]).sum(axis=1))
    evidence = mixed + math.log(_START_WEIGHT / len(mean))
    # One hair below, as the sum of so many logarithms is off by a rounding.
    reached = evidence >= -math.log(level) - 1e-9
    return float(math.ceil(seconds[int(np.argmax(reached))])) if reached.any() else None


def make_setting(stage: Stage, canary: float, control: float, sigma: float = SIGMA) -> Setting:
    """The setting of a frozen stage at these rates of compared requests."""
    levels = split_level(stage)
    latency = [levels[metric.value] for metric in stage.thresholds]
    return Setting(
        canary,
        control,
        stage.margin,
        # Without a baseline no latency is compared: a level that nothing reaches.
        min(latency, default=1e-300),
        # Failures are read early and late, with half of their level each.
        levels[ERRORS] / 2,
        stage.ticks,
        sigma,
    )


def suppose_stage(policy: Policy, level: float, seconds: int, canary_workers: int) -> Stage:
    """A stage of a service nobody has measured yet: all three latencies are compared. Only ratios
    count in this module, so the latencies themselves are any."""
    histogram = (0,) * 100 + (MIN_BASELINE,) + (0,) * (BUCKETS - 100)
    baseline = Baseline(dict.fromkeys(COMPARED, histogram))
    return freeze_stage("supposed", policy, baseline, level, seconds, canary_workers)


def find_reach(stage: Stage, rate: float, control_rate: float) -> Reach:
    """What a running step can find at its real rates of compared requests a second.

    Takes up to a second of a core the first time. It is worked out for the nearest rate of a grid
    in steps of a tenth, so that a rate that wanders, and other rollouts, find the result again.
    """
    setting = make_setting(stage, nearest_rate(rate), nearest_rate(control_rate))
    return describe_reach(find_power(setting), rate)


def nearest_rate(rate: float) -> float:
    """Of the grid."""
    return _rounded(_STEP ** round(math.log(rate, _STEP))) if rate > 0 else 0.0
