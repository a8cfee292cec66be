"""What a policy file says of engines without the tap, and what that means for its steps.

Such engines are judged by their own histograms, so it matters at which bounds these count. Decides
nothing. Called by ``policy_file`` and ``plan``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.rounded_sizing import Latency
from llmrollouts.analysis.rounding import VLLM_BOUNDS
from llmrollouts.cli.failure import BadInput

_OWN_BOUNDS: Final = "--custom-histogram-buckets"
# Under these names vLLM takes bounds.
_GROUPS: Final[Mapping[str, Metric]] = {
    "time_to_first_token": Metric.TTFT,
    "inter_token_latency": Metric.TPOT,
}
NOTES: Final = (
    (
        "spec.revision.engine.tap is false: the gate judges by the engine's own histograms, so a "
        "regression is found only when it carries requests over the next bound of these. Each row "
        "is of one latency alone, and the worst of medians up to 10% beside --ttft and --tpot and "
        "of half the spread."
    ),
    "Requests that hang are in no histogram; whole answers (e2e) are not compared.",
    "Nothing is proven without the tap: no share above 5% and no promotion follows by itself.",
)


@dataclass(frozen=True)
class Untapped:
    """bounds: seconds, rising, the last one infinite, for each latency that is compared."""

    bounds: Mapping[Metric, tuple[float, ...]] = field(default_factory=lambda: dict(VLLM_BOUNDS))

    def latencies(self, ttft: float, tpot: float, sigma: float) -> tuple[Latency, ...]:
        """Stable's. ttft, tpot: medians, seconds."""
        medians = {Metric.TTFT: ttft, Metric.TPOT: tpot}
        return tuple(Latency(m, medians[m], sigma, bounds) for m, bounds in self.bounds.items())


def read_untapped(spec: Mapping[str, object]) -> Untapped | None:
    """Of the spec of an LLMDeployment; None: its engine has the tap. Raises BadInput."""
    revision = spec.get("revision")
    engine = revision.get("engine") if isinstance(revision, dict) else None
    if not isinstance(engine, dict) or engine.get("tap") is not False:
        return None
    given = engine.get("extraArgs") or []
    text = _find_own_bounds([str(each) for each in given] if isinstance(given, list) else [])
    return Untapped({**VLLM_BOUNDS, **_read_bounds(text)})


def _find_own_bounds(arguments: list[str]) -> str:
    """The last one counts, as for vLLM."""
    found = "{}"
    for number, argument in enumerate(arguments):
        if argument == _OWN_BOUNDS:
            found = arguments[number + 1] if number + 1 < len(arguments) else ""
        elif argument.startswith(f"{_OWN_BOUNDS}="):
            found = argument.partition("=")[2]
    return found


def _read_bounds(text: str) -> dict[Metric, tuple[float, ...]]:
    try:
        groups = json.loads(text)
        bounds = {
            metric: tuple(float(bound) for bound in groups[name])
            for name, metric in _GROUPS.items()
            if groups.get(name)
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            f"engine.extraArgs: {_OWN_BOUNDS} cannot be read: {str(error)[:200]}",
            'Write for example {"time_to_first_token": [0.1, 0.11, 0.12]}.',
        ) from error
    for name, metric in _GROUPS.items():
        found = bounds.get(metric, (1.0,))
        rising = all(a < b for a, b in pairwise(found))
        if not rising or not all(0 < bound < math.inf for bound in found):
            raise BadInput(f"engine.extraArgs: {_OWN_BOUNDS}: the bounds of {name} do not rise")
    return {metric: (*found, math.inf) for metric, found in bounds.items()}
