"""Successive readings of one engine: what becomes of a request, a probe, a restart, a gap."""

from __future__ import annotations

import random

import pytest

from llmrollouts.analysis.counts import Counts, Measurement, Metric, Outcomes, make_cell
from llmrollouts.analysis.evalue import log_e_rows
from llmrollouts.analysis.grid import BOUNDS, BUCKETS, OVERFLOW
from llmrollouts.analysis.rounding import place_bounds
from llmrollouts.metrics.cursor import Cursor, keys_of
from llmrollouts.metrics.engine_history import REMEMBERED, EngineHistory
from llmrollouts.metrics.engine_metrics import NoEngineMetrics, parse_engine_metrics
from llmrollouts.metrics.page import Page
from llmrollouts.metrics.port import Query, Rounding
from tests.fakes.engines import E2E, TPOT, TTFT, PageWriter, vllm_bounds

ASKED = Measurement(
    {Metric.TTFT: (2.0,), Metric.TPOT: (12.0,), Metric.E2E: (4.0,), Metric.DURATION: (20.0,)},
    {},
    64,
    (2.0, 30.0),
)
START = 1_767_614_400.25


class Story:
    """A history that is read each second, and what a cursor takes of it."""

    def __init__(self, rounding: Rounding = "down") -> None:
        self.page = PageWriter()
        self.history = EngineHistory("w0")
        self.rounding = rounding
        self.time = START
        self.cursor: Cursor | None = None
        self.latencies: dict[Metric, Counts] = {}
        self.ends: dict[float, Outcomes] = {}
        self.lost = 0

    def second(self, seconds: float = 1.0) -> Page:
        self.time += seconds
        self.history.take(parse_engine_metrics(self.page.text().encode(), "w0"), self.time)
        since, boot = (self.cursor.since, self.cursor.boot) if self.cursor else (None, None)
        page = self.history.page(Query(ASKED, since, boot, "engine", self.rounding))
        if self.cursor is None or self.cursor.boot != page.boot:
            self.cursor = Cursor.at(keys_of(ASKED), page.boot, page.now)
            return page
        taken = self.cursor.take(page)
        self.lost += taken.lost
        for stream, _, counts in taken.counts:
            self.latencies[stream.metric] = self.latencies.get(stream.metric, Counts()) + counts
        for lag, _, outcomes in taken.ends:
            self.ends[lag] = self.ends.get(lag, Outcomes()) + outcomes
        return page

    def serve(self, ttft: float = 0.05, tpot: float = 0.02, whole: float = 1.2) -> None:
        self.page.observe(TTFT, ttft)
        self.page.observe(TPOT, tpot)
        self.page.observe(E2E, whole)
        self.page.statuses["2xx"] += 1
        self.page.ends["length"] += 1


def test_every_request_is_counted_once_in_every_stream_that_can_know_it() -> None:
    story = Story()
    story.second()
    for number in range(40):
        for _ in range(number % 3):
            story.serve()
        story.second()
    assert {metric: counts.total for metric, counts in story.latencies.items()} == {
        Metric.TTFT: 39,
        Metric.TPOT: 39,
        Metric.DURATION: 39,
    }
    assert story.ends == {2.0: Outcomes(39), 30.0: Outcomes(39)}
    assert story.lost == 0


@pytest.mark.parametrize("jitter", [0.05, 0.3])
def test_reads_that_come_early_or_late_lose_nothing(jitter: float) -> None:
    story, rng = Story(), random.Random(7)
    story.second()
    at = START
    for number in range(200):
        story.serve()
        due = START + number + 1 + rng.uniform(-jitter, jitter) + 0.7
        story.second(due - story.time)
        at = due
    assert at > START + 190
    assert story.latencies[Metric.TTFT].total == 200
    assert story.ends[30.0] == Outcomes(200)


def test_what_ended_before_the_first_reading_is_not_ours() -> None:
    story = Story()
    story.serve()
    story.second()
    story.second()
    assert story.latencies == {}


@pytest.mark.parametrize("metric", [TTFT, TPOT, E2E])
def test_a_canary_is_never_called_slower_and_stable_never_faster_than_it_is(metric: str) -> None:
    bounds = (*vllm_bounds(metric), float("inf"))
    down, up = place_bounds(bounds, "down"), place_bounds(bounds, "up")
    rng = random.Random(3)
    for _ in range(5000):
        value = 10 ** rng.uniform(-4, 4)
        place = next(i for i, bound in enumerate(bounds) if value <= bound)
        for bound in (0, 100, 150, 200, BUCKETS - 1):
            assert (down[place] > bound) <= (value > BOUNDS[bound])
            assert (up[place] > bound) >= (value > BOUNDS[bound])
    assert up[-1] == OVERFLOW
    assert list(up) == sorted(up)


def test_rounded_so_evidence_is_never_more_than_the_exact_values_give() -> None:
    """Request by request, hence whatever the bounds are: the reason why the promise holds."""
    rng = random.Random(11)
    bounds = (*vllm_bounds(TTFT), float("inf"))
    down, up = place_bounds(bounds, "down"), place_bounds(bounds, "up")

    def counts(values: list[float], placed: tuple[int, ...] | None) -> Counts:
        done: dict[int, int] = {}
        for value in values:
            if placed is None:
                slot = next(i for i, bound in enumerate(BOUNDS) if value <= bound)
            else:
                slot = placed[next(i for i, bound in enumerate(bounds) if value <= bound)]
            done[slot] = done.get(slot, 0) + 1
        return Counts(done)

    for _ in range(300):
        canary = [rng.lognormvariate(-2.5, 0.8) for _ in range(rng.randrange(1, 12))]
        control = [rng.lognormvariate(-2.7, 0.8) for _ in range(rng.randrange(1, 40))]
        bound = rng.randrange(110, 170)
        exact = make_cell(counts(canary, None), counts(control, None), bound + 2, bound)
        coarse = make_cell(counts(canary, down), counts(control, up), bound + 2, bound)
        bets = ((0.3, 1.0, 2.5),)
        for less, more in zip(
            log_e_rows([coarse], bets)[0], log_e_rows([exact], bets)[0], strict=True
        ):
            assert less <= more + 1e-9


def test_probes_are_taken_out_of_stables_fastest_requests_and_stay_in_the_canarys() -> None:
    for rounding, expected in (("up", 30), ("down", 60)):
        story = Story(rounding)  # type: ignore[arg-type]  # both are roundings
        story.second()
        for _ in range(30):
            story.serve(ttft=0.002)
            story.page.probe()
            story.second()
        assert story.latencies[Metric.TTFT].total == expected
        assert story.ends[2.0] == Outcomes(30), "answers to users alone"


def test_a_probe_that_is_counted_a_second_after_it_was_seen_is_still_taken_out() -> None:
    story = Story("up")
    story.second()
    for _ in range(20):
        story.page.probe()
        story.page.probes -= 1
        story.second()
        story.page.probes += 1
        story.serve()
        story.second()
    assert story.latencies[Metric.TTFT].total == 40 - 19 - 1


def test_failures_are_the_larger_count_of_the_canary_and_the_sum_of_stable() -> None:
    for rounding, failed in (("down", 3), ("up", 5)):
        story = Story(rounding)  # type: ignore[arg-type]  # both are roundings
        story.second()
        for _ in range(10):
            story.serve()
        story.page.statuses["5xx"] += 3
        story.page.statuses["4xx"] += 1
        story.page.ends["error"] += 2
        story.second()
        assert story.ends[2.0] == Outcomes(14, failed, 1)


def test_a_restarted_engine_is_another_life_and_nothing_of_it_is_a_difference() -> None:
    story = Story()
    for _ in range(5):
        story.serve()
        story.second()
    before = story.latencies[Metric.TTFT].total
    boot = story.second().boot
    story.page = PageWriter(started="1.9e+09")
    for _ in range(3):
        story.serve()
    assert story.second().boot != boot
    story.serve()
    story.second()
    assert story.latencies[Metric.TTFT].total == before + 1


def test_counters_that_fall_are_a_restart_even_when_no_start_is_told() -> None:
    story = Story()
    story.page.started = ""
    for _ in range(5):
        story.serve()
        story.second()
    boot = story.second().boot
    story.page = PageWriter(started="")
    story.serve()
    page = story.second()
    assert page.boot != boot
    assert page.closed == ()


def test_other_bounds_are_another_life() -> None:
    story = Story()
    story.serve()
    story.second()
    boot = story.second().boot
    story.page.bounds[TTFT] = [0.1, 1.0]
    story.page.counts[TTFT] = [1, 0, 0]
    assert story.second().boot != boot


def test_what_ended_in_a_long_gap_is_left_out_and_said() -> None:
    story = Story()
    story.second()
    story.serve()
    story.second()
    story.serve()
    story.second(5.0)
    story.serve()
    story.second()
    assert story.latencies[Metric.TTFT].total == 2
    assert story.lost > 0


def test_a_short_gap_loses_nothing() -> None:
    story = Story()
    story.second()
    for _ in range(3):
        story.serve()
        story.second(2.9)
    assert story.latencies[Metric.TTFT].total == 3


def test_an_answer_that_comes_after_a_later_one_changes_nothing() -> None:
    story = Story()
    story.second()
    story.serve()
    old = parse_engine_metrics(story.page.text().encode(), "w0")
    story.second()
    story.serve()
    story.second()
    story.history.take(old, story.time - 1)
    assert story.second().boot
    assert story.latencies[Metric.TTFT].total == 2


def test_a_page_that_stands_still_while_probes_are_answered_is_stale() -> None:
    story = Story()
    for _ in range(3):
        story.serve()
        story.second()
    for _ in range(2):
        story.page.probes += 1
        story.second()
    story.page.probes += 1
    with pytest.raises(NoEngineMetrics, match=r"w0 has no tap.*stale.*3 probes"):
        story.second()
    story.serve()
    assert story.second().closed
    assert story.latencies[Metric.TTFT].total == 3


def test_an_idle_engine_is_not_stale() -> None:
    story = Story()
    for _ in range(30):
        story.page.probe()
        assert story.second().tap is False


def test_arrivals_are_what_ended_and_what_is_in_flight_without_the_probes() -> None:
    story = Story()
    for _ in range(4):
        story.serve()
        story.page.probe()
    story.page.running = 3
    page = story.second()
    assert (page.live, page.mirrored, page.other, page.in_flight) == (7, 0, 7, 3)


def test_only_the_last_two_minutes_are_remembered() -> None:
    story = Story()
    for _ in range(int(REMEMBERED) + 50):
        story.serve()
        story.second()
    told = story.history.page(Query(ASKED, 0.0, None, "engine"))
    cohorts = {cohort for stream, cohort, _ in told.closed if stream.metric is Metric.TTFT}
    assert REMEMBERED - 2 <= len(cohorts) <= REMEMBERED + 2
    assert told.since == pytest.approx(story.time - REMEMBERED, abs=2.1)


def test_another_life_is_asked_in_vain() -> None:
    story = Story()
    for _ in range(5):
        story.serve()
        story.second()
    assert story.history.page(Query(ASKED, 0.0, "other", "engine")).closed == ()
    with pytest.raises(LookupError):
        EngineHistory("w1").page(Query())
