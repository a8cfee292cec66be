"""What stable did before a stage is known within seconds, and what is missing is said."""

from __future__ import annotations

import random

import pytest

from llmrollouts.analysis.baseline import MIN_BASELINE
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import BOUNDS, quantile_bucket
from llmrollouts.metrics.baseline import LONGEST, BaselineCollector
from llmrollouts.metrics.page import parse_page
from llmrollouts.metrics.port import Query
from tests.fakes.taps import FakeTap, Law

NOW = 10_000.0


def make_tap(rate: float, law: Law, seconds: int = 200) -> FakeTap:
    """A worker with a past of so many seconds."""
    tap, rng = FakeTap("s0", lambda: NOW, skew=100.0), random.Random(1)
    for number in range(int(rate * seconds)):
        tap.serve(NOW - seconds + number / rate, law, rng)
    return tap


def read(collector: BaselineCollector, tap: FakeTap, at: float) -> None:
    measurement, since, boot = collector.ask("s0")
    body = tap.page(Query(measurement, since, boot))
    collector.take("s0", parse_page(body, "s0", measurement), at)


def test_the_past_of_a_busy_worker_is_enough_at_once() -> None:
    tap, collector = make_tap(30, Law()), BaselineCollector(NOW)
    read(collector, tap, NOW)
    read(collector, tap, NOW + 1)
    assert collector.is_complete(NOW + 1)
    baseline = collector.baseline
    median = BOUNDS[quantile_bucket(baseline.latency[Metric.TTFT], 0.5)]
    assert 0.085 < median < 0.105
    assert baseline.reference_tokens == 64
    assert sum(baseline.tokens) > 0


def test_pages_that_come_again_count_once() -> None:
    tap, collector = make_tap(5, Law()), BaselineCollector(NOW)
    for _ in range(5):
        read(collector, tap, NOW)
    assert collector.baseline.requests <= 5 * 200


def test_r09_what_is_missing_is_said_with_its_time() -> None:
    tap, collector = make_tap(0.5, Law()), BaselineCollector(NOW)
    read(collector, tap, NOW)
    read(collector, tap, NOW + 1)
    assert not collector.is_complete(NOW + 10)
    missing = MIN_BASELINE - collector.baseline.requests
    assert missing > 0
    assert f"needs {missing} more requests on stable" in collector.describe_need()
    assert "none has ended lately" in collector.describe_need()
    tap.serve(NOW - 40, Law(), random.Random(2))
    assert collector.usable() is None


def test_answers_that_take_longer_are_followed_longer() -> None:
    slow = Law(token=0.7)
    tap, collector = make_tap(10, slow, seconds=400), BaselineCollector(NOW)
    for second in range(4):
        read(collector, tap, NOW + second)
    counts = collector.baseline.latency[Metric.E2E]
    assert BOUNDS[quantile_bucket(counts, 0.5)] == pytest.approx(45, rel=0.1)
    measurement, _, _ = collector.ask("s0")
    assert measurement is not None
    assert measurement.lags[Metric.E2E] == (LONGEST,)


def test_a_worker_that_restarts_is_asked_anew() -> None:
    tap, collector = make_tap(30, Law()), BaselineCollector(NOW)
    read(collector, tap, NOW)
    read(collector, tap, NOW)
    before = collector.baseline.requests
    tap.restart()
    for _ in range(3):
        read(collector, tap, NOW)
    assert collector.baseline.requests == before
