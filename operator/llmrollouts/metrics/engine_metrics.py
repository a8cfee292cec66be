"""The engine's own page of metrics, read strictly: histograms of latencies and counts of ends.

    time_to_first_token_seconds              TTFT      when the first token came
    request_time_per_output_token_seconds    TPOT      once a request, when it ended
    e2e_request_latency_seconds              DURATION  when it ended; tells nothing of its length

``inter_token_latency_seconds`` is left alone: it has one observation for each token, and hundreds
of one request are no evidence of many requests. E2E at a reference length cannot be made of
durations without lengths, so it is not compared. Series of several engines behind one API server
are added. NaN, negative or broken counts, bounds that do not rise or a page without the first
histogram are errors that say what is wrong, never data. Pure; used by ``engine_reader``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from llmrollouts.analysis.counts import Metric
from llmrollouts.metrics.page import NoTap

FAMILIES: Final[Mapping[str, Metric]] = {
    "vllm:time_to_first_token_seconds": Metric.TTFT,
    "vllm:request_time_per_output_token_seconds": Metric.TPOT,
    "vllm:e2e_request_latency_seconds": Metric.DURATION,
}
# Requests to these are users' and the launcher's probes; the rest says nothing of the model.
MEASURED: Final = frozenset(
    ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
)
_REQUESTS: Final = "http_requests_total"
_ENDED: Final = "vllm:request_success_total"
_IN_FLIGHT: Final = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_STARTED: Final = "process_start_time_seconds"
_PROBES: Final = "llmrollouts_launcher_idle_probes_total"
_WANTED: Final = (*FAMILIES, _REQUESTS, _ENDED, *_IN_FLIGHT, _STARTED, _PROBES)
_MOST_BOUNDS: Final = 1000


class NoEngineMetrics(NoTap):
    """The worker has no tap, and its engine's own page cannot be used either."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """bounds: upper bounds in seconds, rising, the last one infinite; counts: observations since
    the engine's start in each, not cumulative."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class HttpEnds:
    """Answers of the API server to requests that are measured, since its start. other: to those
    under /v1/ that are not, such as the list of models."""

    total: int = 0
    failed: int = 0
    refused: int = 0
    other: int = 0


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """One reading. started: names the life of the API server's process; empty where it does not
    tell. http: None where the API server does not count its answers. ended, broken: requests that
    the engine finished, and those that it ended with an error. probes: of the launcher, answered
    with a token."""

    histograms: Mapping[Metric, Buckets]
    started: str = ""
    http: HttpEnds | None = None
    ended: int = 0
    broken: int = 0
    in_flight: int = 0
    probes: int = 0


@dataclass(slots=True)
class _Found:
    cumulative: dict[Metric, dict[float, int]] = field(default_factory=dict)
    http: HttpEnds | None = None
    ended: int = 0
    broken: int = 0
    in_flight: int = 0
    probes: int | None = None
    started: str = ""


def parse_engine_metrics(body: bytes, worker: str) -> EngineMetrics:
    """``worker``: its name, for messages. Raises NoEngineMetrics."""
    try:
        return _read(_pick(body.decode("utf-8")), worker)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        told = f"{type(error).__name__}: {error}"[:200]
        raise NoEngineMetrics(
            f"{worker} has no tap, and its engine's page of metrics cannot be read: {told}"
        ) from error


def _pick(text: str) -> str:
    """The lines of the families that are read: a tenth of the page, and of the time to parse it."""
    lines = (line for line in text.splitlines() if _name_of(line).startswith(_WANTED))
    return "\n".join(lines) + "\n"


def _name_of(line: str) -> str:
    if line.startswith("# "):
        parts = line.split(" ", 3)
        # Units and help texts say nothing that is read here.
        return parts[2] if len(parts) > 2 and parts[1] == "TYPE" else ""
    return line


def _read(text: str, worker: str) -> EngineMetrics:
    found = _Found()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            _note(found, sample)
    if Metric.TTFT not in found.cumulative:
        raise NoEngineMetrics(
            f"{worker} has no tap, and its engine's page has no vllm:time_to_first_token_seconds: "
            "it is not vLLM, or it keeps no statistics"
        )
    if found.probes is None:
        raise NoEngineMetrics(
            f"{worker} has no tap, and its launcher does not count its probes: they cannot be told "
            "from users"
        )
    return EngineMetrics(
        histograms={metric: _buckets(metric, sums) for metric, sums in found.cumulative.items()},
        started=found.started,
        http=found.http,
        ended=found.ended,
        broken=found.broken,
        in_flight=found.in_flight,
        probes=found.probes,
    )


def _note(found: _Found, sample: Sample) -> None:
    name, labels = sample.name, sample.labels
    family = name.removesuffix("_bucket")
    if family in FAMILIES and name != family:
        sums = found.cumulative.setdefault(FAMILIES[family], {})
        bound = float(labels["le"])
        sums[bound] = sums.get(bound, 0) + _count(sample.value, name)
    elif name == _REQUESTS:
        found.http = _add(found.http or HttpEnds(), labels, _count(sample.value, name))
    elif name == _ENDED:
        number = _count(sample.value, name)
        found.ended += number
        found.broken += number if labels.get("finished_reason") == "error" else 0
    elif name in _IN_FLIGHT:
        found.in_flight += _count(sample.value, name)
    elif name == _STARTED:
        found.started = repr(sample.value)
    elif name == _PROBES and labels.get("result") == "token":
        found.probes = _count(sample.value, name)


def _add(sums: HttpEnds, labels: Mapping[str, str], number: int) -> HttpEnds:
    handler, status = labels.get("handler", ""), labels.get("status", "")
    if labels.get("method", "POST") != "POST" or handler not in MEASURED:
        other = number if handler.startswith("/v1/") or handler == "none" else 0
        return HttpEnds(sums.total, sums.failed, sums.refused, sums.other + other)
    return HttpEnds(
        sums.total + number,
        sums.failed + (number if status.startswith("5") else 0),
        sums.refused + (number if status.startswith("4") else 0),
        sums.other,
    )


def _buckets(metric: Metric, cumulative: Mapping[float, int]) -> Buckets:
    bounds = tuple(sorted(cumulative))
    if any(math.isnan(bound) for bound in bounds) or len(bounds) > _MOST_BOUNDS:
        raise ValueError(f"no bounds of {metric}")
    if len(bounds) < 2 or bounds[0] <= 0 or not math.isinf(bounds[-1]):
        raise ValueError(f"bounds of {metric} that do not rise from above 0 to +Inf")
    return Buckets(bounds, tuple(_differences(cumulative[bound] for bound in bounds)))


def _differences(cumulative: Iterable[int]) -> Iterable[int]:
    before = 0
    for value in cumulative:
        if value < before:
            raise ValueError("a histogram whose counts fall from bucket to bucket")
        yield value - before
        before = value


def _count(value: float, name: str) -> int:
    if not math.isfinite(value) or value < 0 or value != math.floor(value):
        raise ValueError(f"no count of {name}: {value!r}")
    return int(value)
