"""Equal load is told from unequal load, and chance from a difference; counts are compared."""

from __future__ import annotations

import random

import pytest

from llmrollouts.metrics.load import CrossCheck, EndWatch, Load, LoadMeter, Match
from llmrollouts.metrics.page import Page


def make_page(arrived: int, boot: str = "b", now: float = 1.0) -> Page:
    return Page(boot, now, 0.0, live=arrived)


def meter(rates: dict[str, float], seconds: int = 30, seed: int = 1) -> LoadMeter:
    """Workers with so many requests a second, by chance."""
    found, rng, sums = LoadMeter(), random.Random(seed), dict.fromkeys(rates, 0)
    for second in range(seconds + 1):
        for name, rate in rates.items():
            found.note(name, make_page(sums[name]), float(second))
            sums[name] += sum(rng.random() < rate / 1000 for _ in range(1000))
    return found


def compare(rates: dict[str, float], seconds: int = 30, seed: int = 1) -> Load:
    control = [name for name in rates if name.startswith("s")]
    return meter(rates, seconds, seed).compare(["c"], control)


@pytest.mark.parametrize(
    ("canary", "match"),
    [(50.0, Match.MATCHED), (53.0, Match.MATCHED), (20.0, Match.IDLER), (100.0, Match.BUSIER)],
)
def test_load_is_compared_by_worker(canary: float, match: Match) -> None:
    load = compare({"c": canary, "s1": 50.0, "s2": 50.0, "s3": 50.0})
    assert load.match is match


def test_chance_at_a_low_rate_is_no_difference() -> None:
    matches = [
        compare({"c": 1.0, "s1": 1.0, "s2": 1.0, "s3": 1.0, "s4": 1.0}, seed=seed).match
        for seed in range(40)
    ]
    assert matches.count(Match.MATCHED) == 40


def test_ten_seconds_are_needed() -> None:
    assert compare({"c": 50.0, "s1": 50.0}, seconds=8).match is Match.UNKNOWN
    assert LoadMeter().compare(["c"], ["s"]).match is Match.UNKNOWN


def test_a_new_life_counts_from_zero() -> None:
    found = meter({"c": 50.0, "s1": 50.0})
    found.note("c", make_page(0, boot="other"), 31.0)
    assert found.compare(["c"], ["s1"]).match is Match.UNKNOWN


def check(extra: int, seconds: int = 120, rate: int = 20, failed: int = 0) -> bool:
    """Whether it is found that the gateways count so many more in each second."""
    cross, found = CrossCheck(), False
    for second in range(seconds):
        pages = [("u1", make_page(rate * second)), ("u2", make_page(rate * second))]
        issued = 2 * rate * second + extra * second
        found = (
            cross.note(pages, issued, failed * second, "life", float(second)) is not None or found
        )
    return found


def test_counts_that_agree_are_believed() -> None:
    assert not check(extra=0)


def test_counts_that_are_far_apart_are_not() -> None:
    assert check(extra=4)
    assert check(extra=-4)


def test_requests_that_are_not_measured_are_counted_on_both_sides() -> None:
    cross = CrossCheck()
    for second in range(90):
        page = Page("b", 1.0, 0.0, live=20 * second, other=5 * second)
        assert cross.note([("u", page)], 25 * second, 0, "life", float(second)) is None


def test_a_tap_that_hears_nothing_is_found() -> None:
    cross = CrossCheck()
    found = [
        cross.note([("u", make_page(0))], 20 * second, 0, "life", float(second))
        for second in range(90)
    ]
    assert found[-1] is not None
    assert "0 requests and the gateways" in found[-1].describe()


def test_too_little_says_nothing() -> None:
    assert not check(extra=10, seconds=50)
    assert not check(extra=1, rate=1, seconds=100)


def test_failing_requests_that_no_worker_saw_are_no_disagreement() -> None:
    assert not check(extra=4, failed=4)


def test_a_report_that_comes_late_is_no_disagreement() -> None:
    cross = CrossCheck()
    for second in range(90):
        found = cross.note(
            [("u", make_page(20 * second))], 20 * max(0, second - 2), 0, "life", float(second)
        )
        assert found is None


def engine_page(ended: int, in_flight: int = 0, boot: str = "a") -> Page:
    return Page(boot=boot, now=1.0, since=0.0, live=ended + in_flight, in_flight=in_flight)


def test_requests_that_are_sent_and_never_end_are_noticed_by_the_gateways_counts() -> None:
    watch = EndWatch()
    for second in range(9):
        assert watch.note([("c", engine_page(5, 3 * second))], 3 * second, "g", second) is None
    found = watch.note([("c", engine_page(5, 40))], 40, "g", 10.0)
    assert found is not None
    assert (found.sent, found.seconds) == (40, 10.0)
    assert "40 requests to the canary in the last 10s" in found.describe()
    assert watch.note([("c", engine_page(6, 40))], 41, "g", 11.0) is None
    # A probe that is not counted yet is no user's answer, a second time.
    for second in range(12, 40):
        page = engine_page(5 + second % 2, 50)
        late = watch.note([("c", page)], 2 * second, "g", second)
    assert late is not None


def test_few_requests_or_a_new_life_say_nothing_of_hangs() -> None:
    watch = EndWatch()
    for second in range(60):
        assert watch.note([("c", engine_page(5))], second // 4, "g", second) is None
    assert watch.note([("c", engine_page(0, boot="b"))], 90, "g", 61.0) is None
    assert watch.note([("c", engine_page(0, boot="b"))], 0, "another", 90.0) is None
