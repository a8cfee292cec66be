"""What stable was like before a stage: the source of its thresholds.

Collected from the control group in the 10-30 minutes before a step (the operator), or from the
records before the canary's first one (replay). It decides nothing: a poor baseline costs power,
never validity, because both arms of a stage are read at the same moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from llmrollouts.analysis.counts import Counts, Measurement, Metric, Stream
from llmrollouts.analysis.grid import BUCKETS, OVERFLOW, bucket_of

# Fewer requests of stable than this do not fix thresholds: their p99 would be one request.
MIN_BASELINE: Final = 200
# A metric of which stable had fewer requests is not compared (for example: hardly any streaming).
MIN_OF_METRIC: Final = 20
DEFAULT_REFERENCE: Final = 64
_LONGEST_REFERENCE: Final = 4096


@dataclass(frozen=True)
class Baseline:
    """latency: for each metric a histogram of stable, BUCKETS + 1 counts of requests; tokens:
    finished answers by the whole part of log2 of their tokens; reference_tokens: the R at which
    E2E was measured (counts.Metric.E2E)."""

    latency: Mapping[Metric, tuple[int, ...]] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()
    reference_tokens: int = DEFAULT_REFERENCE

    @property
    def requests(self) -> int:
        """Requests of the metric that saw most of them."""
        return max((sum(counts) for counts in self.latency.values()), default=0)

    def add(self, stream: Stream, counts: Counts) -> Baseline:
        """Take in stable's counts of one cohort, read at ``stream.lag``.

        Unanswered requests fall into the bucket just above the lag: more is not known of them.
        Those whose client left are not counted.
        """
        histogram = list(self.latency.get(stream.metric, (0,) * (BUCKETS + 1)))
        for bucket, count in counts.done.items():
            histogram[bucket] += count
        if counts.over:
            histogram[min(OVERFLOW, bucket_of(stream.lag) + 1)] += counts.over
        return replace(self, latency={**self.latency, stream.metric: tuple(histogram)})

    def add_tokens(self, counts: Mapping[int, int]) -> Baseline:
        """Take in finished answers by the whole part of log2 of their tokens."""
        tokens = list(self.tokens)
        for power, count in counts.items():
            if power < 0 or count < 0:
                raise ValueError(f"no count of answers: 2**{power} tokens, {count} times")
            tokens.extend([0] * (power + 1 - len(tokens)))
            tokens[power] += count
        return replace(self, tokens=tuple(tokens))

    def to_json(self) -> str:
        return json.dumps(
            {
                "latency": {
                    metric.value: {str(b): n for b, n in enumerate(counts) if n}
                    for metric, counts in self.latency.items()
                },
                "tokens": self.tokens,
                "referenceTokens": self.reference_tokens,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Baseline:
        """Raises ValueError when the text is no baseline."""
        try:
            raw = json.loads(text)
            latency = {}
            for name, sparse in raw["latency"].items():
                histogram = [0] * (BUCKETS + 1)
                for bucket, count in sparse.items():
                    if not 0 <= int(bucket) <= OVERFLOW or int(count) < 0:
                        raise ValueError(f"bucket {bucket} holds {count}")
                    histogram[int(bucket)] = int(count)
                latency[Metric(name)] = tuple(histogram)
            tokens = tuple(int(count) for count in raw["tokens"])
            return cls(latency, tokens, int(raw["referenceTokens"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no stored baseline: {error}") from error


def choose_reference(tokens: tuple[int, ...]) -> int:
    """R for E2E: the power of two at or below the median answer; 64 when nothing is known.

    At least half of the answers then reach token R, and their E2E is read, not extrapolated.
    """
    total, seen = sum(tokens), 0
    if total < MIN_OF_METRIC:
        return DEFAULT_REFERENCE
    for power, count in enumerate(tokens):
        seen += count
        if 2 * seen >= total:
            return int(min(_LONGEST_REFERENCE, 2**power))
    return DEFAULT_REFERENCE


def baseline_measurement(reference_tokens: int, longest: float = 60.0) -> Measurement:
    """What the workers of stable are asked for while a baseline is collected.

    longest: seconds that a request may take before it is taken down as "longer"; the baseline is
    complete that much later.
    """
    return Measurement(
        lags={
            Metric.TTFT: (min(30.0, longest),),
            Metric.TPOT: (min(30.0, longest),),
            Metric.E2E: (longest,),
        },
        exact={},
        reference_tokens=reference_tokens,
        outcome_lags=(2.0,),
    )
