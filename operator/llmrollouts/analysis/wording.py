"""The gate's sentences: plain words with numbers, for whoever is on call. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from llmrollouts.analysis.evalue import Cell
from llmrollouts.analysis.gateplan import CONNECTIONS, ERROR_LIMIT, ERRORS, REFUSALS
from llmrollouts.analysis.judgement import ProofLine

# Fewer requests than this do not tell which way a proof goes.
_TELLING: Final = 500
_OF_OUTCOMES = {
    ERRORS: ("failed requests", "failed"),
    REFUSALS: ("refused requests (4xx)", "were refused"),
    CONNECTIONS: ("connections from the gateway", "failed"),
}
_OF_LIMITS = {
    "ttftP99": "time to first token",
    "tpotP99": "time per output token",
    "e2eP99": "time to the end of the answer",
    ERROR_LIMIT: "failed requests",
}


def name_metric(metric: str, reference_tokens: int) -> str:
    """What a metric's name means; E2E names the token that it waits for."""
    if metric == "ttft":
        return "time to first token"
    if metric == "tpot":
        return "time per output token"
    if metric == "e2e":
        return f"time to output token {reference_tokens}"
    return _OF_LIMITS.get(metric) or _OF_OUTCOMES[metric][0]


def describe_latency(
    name: str,
    cell: Cell,
    bounds: tuple[float, float],
    ratios: Mapping[str, float] | None,
    unanswered: frozenset[str],
) -> str:
    """bounds: seconds, the canary's and control's; unanswered: quantiles of lower bounds."""
    text = (
        f"{name}: {cell.canary_over:,} of {cell.canary_total:,} canary requests took longer than "
        f"{format_time(bounds[0])}, {cell.stable_over:,} of {cell.stable_total:,} control requests "
        f"longer than {format_time(bounds[1])}"
    )
    if ratios:
        quantile, ratio = max(ratios.items(), key=lambda item: item[1])
        least = "at least " if quantile in unanswered else ""
        text += f"; {quantile} is {least}{format_ratio(ratio)} times stable's"
    return text


def describe_outcomes(metric: str, cell: Cell) -> str:
    name, verb = _OF_OUTCOMES[metric]
    thing = "connections" if metric == CONNECTIONS else "requests"
    return (
        f"{name}: {cell.canary_over:,} of {cell.canary_total:,} canary {thing} {verb}, "
        f"{cell.stable_over:,} of {cell.stable_total:,} control {thing}"
    )


def describe_limit(metric: str, limit: float, allowed: float, cell: Cell) -> str:
    """limit: seconds; of errorRate the allowed fraction."""
    name = _OF_LIMITS[metric]
    if metric == ERROR_LIMIT:
        beyond = f"at most {format_percent(allowed)} may fail"
    else:
        beyond = f"at most {format_percent(allowed)} may take longer than {format_time(limit)}"
    return (
        f"{name}: {beyond}; of the canary {_share(cell.canary_over, cell.canary_total)}, "
        f"of control {_share(cell.stable_over, cell.stable_total)}"
    )


def describe_band(name: str, distance: float, requests: int, control: int) -> str:
    return (
        f"{name}: over the whole stage, {format_percent(distance)} more of the canary's "
        f"{requests:,} requests than of control's {control:,} are slow, more than chance can do"
    )


def describe_evidence(log_e: float, level: float) -> str:
    evidence = format_evidence(math.exp(min(log_e, 700.0)))
    return f"evidence {evidence} (needs {format_evidence(1 / level)})"


def describe_proof(lines: Sequence[ProofLine], names: Mapping[str, str], rate: float) -> str:
    """What is missing before the canary counts as no worse. rate: canary requests per second."""
    missing = [line for line in lines if not line.accepted and not line.left_out]
    if not missing:
        return "shown to be no worse than allowed at p50, p95 and p99"
    worst = max(missing, key=lambda line: (line.more is None, line.more or 0))
    text = (
        f"not yet shown to be no worse ({len(missing)} of {len(lines)} comparisons are missing; "
        f"furthest behind: {names[worst.metric]}, {worst.quantile}, evidence "
        f"{format_evidence(worst.evidence)} of {format_evidence(worst.needed)}"
    )
    if worst.more is not None:
        text += f", about {format_count(worst.more)} more canary requests"
        if rate > 0:
            text += f", {format_span(worst.more / rate)} at this rate"
    elif worst.requests >= _TELLING:
        text += ", which does not grow: the canary is near the promotion margin or beyond it"
    else:
        text += ", too early to say how many more requests it needs"
    return text + ")"


def format_count(number: int) -> str:
    """An estimate: two digits of it are meant."""
    digits = max(0, len(str(number)) - 2)
    return f"{round(number, -digits):,}"


def format_span(seconds: float) -> str:
    """ "40 s", "12 min", "5 h"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600):,} h"


def format_time(seconds: float) -> str:
    """ "105 ms", "8.2 s"."""
    if seconds < 0.01:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def format_percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def format_ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 1.2 else f"{ratio:.1f}"


def format_evidence(evidence: float) -> str:
    """Two digits are all that evidence is good for."""
    if evidence >= 1e6:
        return "over 1,000,000"
    if evidence < 10:
        return f"{evidence:.1f}"
    digits = -(math.floor(math.log10(evidence)) - 1)
    return f"{round(evidence, digits):,.0f}"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "no request was seen"
    return f"{part:,} of {whole:,} did ({format_percent(part / whole)})"
