"""Evidence over time: a mixture of bets and start times that may be looked at every second.

``EProcess`` is a rule without state; ``EvidenceState`` is all that must survive a restart, and it
survives JSON bit for bit. Under the null hypothesis the evidence ever reaches 1/alpha with a
chance of at most alpha (Ville's inequality). Restarts keep it quick for regressions that begin
late in a stage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from llmrollouts.analysis.burst import NONE, Burst, follow_burst
from llmrollouts.analysis.evalue import Cell, log_e_rows

# The quantiles of stable at which thresholds are fixed when a stage starts.
QUANTILES: Final = (0.50, 0.75, 0.95, 0.99, 0.999)
TICK_CAP: Final = 1.5  # nats per second; see the specification, 4.6
ERROR_CAP: Final = 2.0
# Beyond this a bet has won for ever; the bound keeps products finite.
MOST_WEALTH: Final = 1e80


@dataclass(frozen=True, slots=True)
class Bet:
    """``omega`` > 1: the canary exceeds threshold number ``threshold`` with odds that much
    higher than stable's."""

    threshold: int
    omega: float


LATENCY_BETS: Final = tuple(
    Bet(threshold, omega)
    for threshold, omegas in enumerate(
        ((1.15, 1.4, 2.2), (1.2, 2.0, 5.0), (2.5, 8.0), (4.0, 15.0, 40.0), (10.0, 40.0))
    )
    for omega in omegas
)
ERROR_BETS: Final = tuple(Bet(0, omega) for omega in (2.0, 4.0, 10.0, 30.0, 100.0))
LIMIT_BETS: Final = tuple(Bet(0, omega) for omega in (2.0, 4.0, 10.0, 40.0))


class EvidenceState(NamedTuple):
    """wealth: one value a bet, in the order of the rule's bets; ticks: seconds taken in; bursts:
    one a bet, where the rule takes short bursts back."""

    wealth: tuple[float, ...]
    ticks: int = 0
    bursts: tuple[Burst, ...] = ()

    def to_json(self) -> str:
        """Python writes the shortest text that reads back as the same float: nothing is lost."""
        return json.dumps({"wealth": self.wealth, "ticks": self.ticks, "bursts": self.bursts})

    @classmethod
    def from_json(cls, text: str) -> EvidenceState:
        """Raises ValueError when the text is no state."""
        try:
            raw = json.loads(text)
            return cls.from_plain(raw["wealth"], raw["ticks"], raw.get("bursts", []))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no stored evidence: {error}") from error

    @classmethod
    def from_plain(cls, wealth: object, ticks: object, bursts: object) -> EvidenceState:
        """Raises TypeError or ValueError when the numbers are no state."""
        if not (isinstance(wealth, list) and isinstance(ticks, int) and isinstance(bursts, list)):
            raise ValueError("stored evidence is numbers, a count of seconds, and bursts")
        values = tuple(float(value) for value in wealth)
        if ticks < 0 or not all(0 <= value <= MOST_WEALTH for value in values):
            raise ValueError("stored evidence lies outside its bounds")
        running = tuple(Burst(int(s), float(g), int(q), float(w)) for s, g, q, w in bursts)
        if len(running) not in {0, len(values)}:
            raise ValueError("stored evidence has a burst for each bet, or none")
        return cls(values, ticks, running)


@dataclass(frozen=True, slots=True)
class StartTimes:
    """How the weight of an e-process is spread over the times at which a regression may begin.

    start_weight on the first second; the rest evenly over the stage's ``stage_ticks`` seconds, but
    for the fraction ``late_weight``, which thins out over all later seconds: a stage that is held
    past its end still finds what begins then. 0 reproduces the specification.
    """

    stage_ticks: int
    start_weight: float = 0.5
    late_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.stage_ticks < 1 or not 0 < self.start_weight < 1 or not 0 <= self.late_weight < 1:
            raise ValueError("start times need a stage of 1 s or more and weights in (0, 1)")

    def fresh(self, tick: int) -> float:
        """The weight of starting at ``tick``, from 1."""
        restarts = 1 - self.start_weight
        if tick <= self.stage_ticks:
            return restarts * (1 - self.late_weight) / self.stage_ticks
        return restarts * self.late_weight * self.stage_ticks / (tick * (tick - 1))

    def unspent(self, ticks: int) -> float:
        """The weight of all start times after ``ticks``."""
        restarts, late = 1 - self.start_weight, self.late_weight
        if ticks <= self.stage_ticks:
            return restarts * ((1 - late) * (1 - ticks / self.stage_ticks) + late)
        return restarts * late * self.stage_ticks / ticks


def accumulate(state: EvidenceState, gains: Iterable[float], starts: StartTimes) -> EvidenceState:
    """One second's ``gains`` (ln e, one a bet) on the wealth, and a share of new start times."""
    ticks = state.ticks + 1
    fresh = starts.fresh(ticks)
    wealth = []
    for value, gain in zip(state.wealth, gains, strict=True):
        grown = value + fresh
        if gain:
            grown *= math.exp(min(gain, 700.0))
        wealth.append(grown if grown < MOST_WEALTH else MOST_WEALTH)
    return EvidenceState(tuple(wealth), ticks, state.bursts)


def weigh(state: EvidenceState, starts: StartTimes) -> float:
    """E: the mean wealth and the weight of the start times still to come."""
    return sum(state.wealth) / len(state.wealth) + starts.unspent(state.ticks)


@dataclass(frozen=True)
class EProcess:
    """The rule: bets, the length of the stage in seconds, the weight on starting at once, a cap.

    A stage may be extended past ``stage_ticks``: see ``StartTimes``. forgives: whether bursts that
    end by themselves are taken back (``burst``).
    """

    bets: tuple[Bet, ...]
    stage_ticks: int
    start_weight: float = 0.5
    cap: float = TICK_CAP
    late_weight: float = 0.0
    forgives: bool = False
    starts: StartTimes = field(init=False, repr=False)
    # For each threshold: its number, the places of its bets, and their ln omega.
    groups: tuple[tuple[int, tuple[int, ...], tuple[float, ...]], ...] = field(
        init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not self.bets:
            raise ValueError("an e-process needs bets")
        starts = StartTimes(self.stage_ticks, self.start_weight, self.late_weight)
        object.__setattr__(self, "starts", starts)
        groups = []
        for threshold in sorted({bet.threshold for bet in self.bets}):
            places = tuple(i for i, bet in enumerate(self.bets) if bet.threshold == threshold)
            logs = tuple(math.log(self.bets[i].omega) for i in places)
            groups.append((threshold, places, logs))
        object.__setattr__(self, "groups", tuple(groups))

    def start(self) -> EvidenceState:
        return EvidenceState((self.start_weight,) * len(self.bets))

    def tick(self, state: EvidenceState, cells: Sequence[Cell]) -> EvidenceState:
        """Take in one arrival second; ``cells[threshold]`` as the bets number them.

        All cells must hold the same arrivals: mixing lags would let a stop peek at requests that
        the slower thresholds have not seen yet.
        """
        rows = log_e_rows(
            [cells[threshold] for threshold, _, _ in self.groups],
            [logs for _, _, logs in self.groups],
        )
        asked = any(cells[threshold].canary_total for threshold, _, _ in self.groups)
        return self.gain(state, rows, asked=asked)

    def gain(
        self, state: EvidenceState, rows: Sequence[Sequence[float]], *, asked: bool = True
    ) -> EvidenceState:
        """Take in one arrival second; ``rows``: ln e of each threshold's bets, as in ``groups``;
        asked: whether the canary had a request."""
        gains, cap = [0.0] * len(self.bets), self.cap
        if any(map(any, rows)):
            for (_, places, _), row in zip(self.groups, rows, strict=True):
                for place, gain in zip(places, row, strict=True):
                    gains[place] = gain if gain < cap else cap
        grown = accumulate(state, gains, self.starts)
        if not self.forgives or not asked:
            return grown
        return self._forgive(state, grown, gains)

    def _forgive(
        self, state: EvidenceState, grown: EvidenceState, gains: Sequence[float]
    ) -> EvidenceState:
        """Follow each bet's burst, and take back those that ended by themselves."""
        fresh = self.starts.fresh(grown.ticks)
        wealth, bursts = list(grown.wealth), []
        running = state.bursts or (NONE,) * len(wealth)
        for bet, (burst, gain) in enumerate(zip(running, gains, strict=True)):
            if gain <= 0 and not burst.seconds:  # nothing runs and nothing begins: most bets
                bursts.append(NONE)
                continue
            before = state.wealth[bet] + fresh
            followed, ended = follow_burst(burst, gain, self.cap, before)
            bursts.append(followed)
            if ended:
                wealth[bet] = min(wealth[bet], burst.before)
        return EvidenceState(tuple(wealth), grown.ticks, tuple(bursts))

    def evidence(self, state: EvidenceState) -> float:
        """E: reject the null for ever once it has reached 1/alpha."""
        return weigh(state, self.starts)
