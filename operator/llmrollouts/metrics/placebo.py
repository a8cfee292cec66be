"""The same test with single stable workers as pretended canaries: how often it fires on nothing.

Each worker of the control group in turn is compared with the others of the group, with the very
thresholds, level and bets of the running stage. It influences no decision and is lost with a
restart; what it found in earlier stages is stored. Its own limit of workers keeps it cheap.
Called by controller/measure when spec.gates.latency.placebo is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmrollouts.analysis.counts import OutcomeSecond
from llmrollouts.analysis.gate import Gate, GateState, start_state
from llmrollouts.analysis.judgement import Outcome
from llmrollouts.analysis.stage import Stage
from llmrollouts.metrics.port import Reading
from llmrollouts.metrics.record import PlaceboResult
from llmrollouts.metrics.timeline import Timeline

# Pretended canaries at once, and workers that each is compared with.
MOST: Final = 8
_OTHERS: Final = 8
# Fewer requests say nothing, for or against.
_LEAST: Final = 20


@dataclass(slots=True)
class _Pretended:
    timeline: Timeline
    state: GateState
    requests: int = 0


class Placebo:
    """``control``: the workers of the control group (uid -> name)."""

    def __init__(self, stage: Stage, control: Mapping[str, str], start: int) -> None:
        self._gate = Gate(stage)
        self._pretended: dict[str, _Pretended] = {}
        uids = list(control)
        if len(uids) < 2:
            return
        for uid in uids[:MOST]:
            timeline = Timeline(stage.measurement, start)
            others = [other for other in uids if other != uid][:_OTHERS]
            timeline.enlist({uid: "canary", **dict.fromkeys(others, "control")})
            self._pretended[uid] = _Pretended(timeline, start_state(stage))

    def take(self, uid: str, reading: Reading) -> None:
        """Take in one page of a stable worker."""
        for each in self._pretended.values():
            each.timeline.take(uid, reading.page, reading.at)

    def close(self, now: float) -> None:
        """Let every pretended comparison take in what is complete."""
        for each in self._pretended.values():
            for closed in each.timeline.close(now):
                second = closed.second
                if isinstance(second, OutcomeSecond):
                    each.state = self._gate.take_outcomes(each.state, second)
                    if second.lag == min(self._gate.stage.measurement.outcome_lags):
                        each.requests += second.canary.total
                else:
                    each.state = self._gate.take_latency(each.state, second)

    def result(self) -> PlaceboResult:
        judged = [each for each in self._pretended.values() if each.requests >= _LEAST]
        fired = sum(
            1 for each in judged if self._gate.judge(each.state).outcome is Outcome.ROLL_BACK
        )
        return PlaceboResult(len(judged), fired)
