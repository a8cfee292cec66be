"""The page /samples: what it covers, what it repeats, what was lost, and what it refuses."""

from __future__ import annotations

import json
import math
import random

import pytest

from llmrollouts.analysis import grid as operator_grid
from llmrollouts.analysis.counts import Measurement, Metric
from llmrollouts.metrics.page import make_parameters, parse_page
from tests.worker_image.tap_stories import Story, Teller
from worker_image.launcher import grid
from worker_image.launcher.cohorts import KEPT_SECONDS, Cohorts, Request
from worker_image.launcher.samples import MOST_BYTES, SETTLE_SECONDS
from worker_image.launcher.tap.llmrollouts_tap import wire

QUERY = "lags=ttft:2;errors:2&since={since}"
ANSWERED = (wire.OK, 0.5, 3, 0.4)


def cohorts_of(page: dict[str, list[list[int]]]) -> list[int]:
    return [row[2] for row in page["closed"]]


def test_both_grids_are_the_same() -> None:
    assert grid.BOUNDS == operator_grid.BOUNDS
    assert (grid.GROWTH, grid.SMALLEST) == (operator_grid.GROWTH, operator_grid.SMALLEST)
    assert (grid.BUCKETS, grid.OVERFLOW) == (operator_grid.BUCKETS, operator_grid.OVERFLOW)
    draw = random.Random(1)
    values = [0.0, 1e9, *grid.BOUNDS, *(10 ** draw.uniform(-5, 5) for _ in range(2000))]
    values += [math.nextafter(bound, way) for bound in grid.BOUNDS for way in (0, math.inf)]
    for value in values:
        assert grid.bucket_of(value) == operator_grid.bucket_of(value), value


# -- what an answer covers -----------------------------------------------------------------------


def test_without_since_only_the_clock_is_told() -> None:
    teller = Teller()
    teller.tell(Story(marks=(0.1,)))
    page = teller.ask("lags=ttft:2", at=110.5)
    assert (page["now"], page["since"], page["closed"]) == (110.5, 110.5, [])
    assert page["version"] == 1
    assert page["tap"] is True
    assert page["processes"] == 0, "nothing was heard for ten seconds"


def test_cohort_is_told_once_it_has_closed_and_settled_and_never_again() -> None:
    teller = Teller()
    teller.tell(Story(arrived=100.25, marks=(0.1,), end=ANSWERED))
    assert teller.ask(QUERY.format(since=100), at=103.14)["closed"] == []
    page = teller.ask(QUERY.format(since=103.14), at=103.16)
    assert cohorts_of(page) == [100]
    assert page["outcomes"] == [[2.0, 100, 1, 0, 0]]
    assert teller.ask(QUERY.format(since=103.16), at=104.16)["closed"] == []


def test_asking_twice_answers_the_same() -> None:
    teller = Teller()
    teller.tell(*(Story(arrived=100 + place / 3, marks=(0.1,)) for place in range(30)))
    query = "lags=ttft:2;tpot:3;errors:2&since=101"
    first = teller.ask(query, at=120.0)
    second = teller.ask(query, at=120.0)
    assert first == second
    assert len(first["closed"]) == 20


def test_reads_one_after_the_other_give_what_one_read_gives() -> None:
    teller = Teller()
    draw = random.Random(3)
    teller.tell(*(Story(100 + draw.uniform(0, 20), marks=(draw.random(),)) for _ in range(200)))
    lags = "lags=ttft:0.5;e2e:1,4.5;errors:2&reference=1&since={}"
    whole = teller.ask(lags.format(100), at=140.0)
    rows, outcomes, since = [], [], 100.0
    while since < 140.0:
        page = teller.ask(lags.format(since), at=min(140.0, since + draw.uniform(0.1, 2.5)))
        assert page["since"] == since
        rows += page["closed"]
        outcomes += page["outcomes"]
        since = page["now"]
    assert sorted(rows) == sorted(whole["closed"])
    assert sorted(outcomes) == sorted(whole["outcomes"])


def test_since_from_before_the_retention_says_what_is_covered() -> None:
    teller = Teller()
    teller.tell(*(Story(arrived=float(second), marks=(0.1,)) for second in range(100, 2000, 10)))
    page = teller.ask(QUERY.format(since=100), at=2000.0)
    oldest = 2000 - KEPT_SECONDS
    assert page["since"] == pytest.approx(oldest + 2 + SETTLE_SECONDS)
    assert min(cohorts_of(page)) == oldest, "the first cohort that is whole"
    assert len(page["closed"]) == 72


def test_another_boot_gets_the_clock_and_no_rows() -> None:
    teller = Teller()
    teller.tell(Story(marks=(0.1,)))
    boot = teller.ask()["boot"]
    same = teller.ask(QUERY.format(since=100) + f"&boot={boot}", at=110.0)
    assert same["closed"]
    other = teller.ask(QUERY.format(since=5e6) + "&boot=feedfeed")
    assert (other["closed"], other["since"], other["boot"]) == ([], 110.0, boot)


def test_restart_of_the_engine_is_a_new_boot_that_knows_nothing_of_the_old() -> None:
    teller = Teller()
    teller.tell(Story(marks=(0.1,)), Story())
    before = teller.ask(at=104.0)
    teller.sampler.begin_life()
    after = teller.ask(QUERY.format(since=100), at=110.0)
    assert after["boot"] != before["boot"]
    assert (before["in_flight"], after["in_flight"]) == (2, 0)
    assert (after["closed"], after["tap"], after["processes"]) == ([], False, 0)
    assert after["arrivals"] == {"live": 0, "mirrored": 0}


def test_page_is_bounded_and_gives_up_its_oldest_rows() -> None:
    teller = Teller()
    draw = random.Random(5)
    for second in range(100, 700):
        values = [10 ** draw.uniform(-3, 1) for _ in range(60)]
        teller.tell(*(Story(second + 0.5, marks=(value,)) for value in values))
    lags = "ttft:11;tpot:11;e2e:2,4,6,8,10,11;duration:3,5,7;errors:2"
    teller.clock = 720.0
    page = teller.page(f"lags={lags}&since=100&reference=1")
    assert MOST_BYTES * 0.9 < len(page.body.encode()) <= MOST_BYTES
    content = json.loads(page.body)
    assert content["since"] > 100
    for metric, lag, cohort, *_ in content["closed"]:
        assert cohort + 1 + lag + SETTLE_SECONDS > content["since"], metric
    # What is covered is whole: it equals what a question with that `since` gets.
    again = teller.ask(f"lags={lags}&since={content['since']}&reference=1")
    assert again["closed"] == content["closed"]


def test_operator_reads_the_page_that_it_asked_for() -> None:
    measurement = Measurement(
        lags={Metric.TTFT: (2.0,), Metric.E2E: (1.5, 4.25)},
        exact={Metric.TTFT: (0.35,)},
        reference_tokens=4,
        outcome_lags=(2.0, 30.0),
    )
    teller = Teller()
    teller.tell(*(Story(100.25, marks=(value, 1.0, 1.2)) for value in (0.1, 0.3, 0.4)))
    teller.tell(Story(100.5, end=(wire.FAILED, 0.1, 0, 0.1), status=500), Story(100.7))
    teller.clock = 140.0
    boot = teller.sampler.boot
    body = teller.page(make_parameters(measurement, 100.0, boot)).body.encode()
    page = parse_page(body, "worker", measurement)
    assert (page.boot, page.now, page.since, page.live) == (boot, 140.0, 100.0, 5)
    found = {(stream.metric, stream.lag): counts for stream, _, counts in page.closed}
    assert found[Metric.TTFT, 2.0].beyond == ((3, 5),)
    assert [found[Metric.E2E, lag].over for lag in (1.5, 4.25)] == [2, 2]
    assert {lag: (ends.total, ends.failed) for lag, _, ends in page.ends} == {
        2.0: (5, 1),
        30.0: (5, 1),
    }


# -- processes and losses ------------------------------------------------------------------------


def test_several_processes_are_told_apart_and_added() -> None:
    teller = Teller()
    records = [teller.records(Story(marks=(0.1,), end=ANSWERED)) for _ in range(2)]
    teller.clock = 101.0
    # Both processes count their requests from the same number.
    teller.sampler.take(teller.datagram(records[0], life=1))
    teller.sampler.take(teller.datagram(records[0], life=2))
    page = teller.ask(QUERY.format(since=100), at=104.0)
    assert (page["processes"], page["lost"]) == (2, 0)
    assert page["outcomes"] == [[2.0, 100, 2, 0, 0]]
    teller.sampler.take(teller.datagram(records[1], life=2))
    assert teller.ask(at=112.0)["processes"] == 1


def test_lost_records_are_counted_and_never_become_a_hang() -> None:
    teller = Teller()
    teller.tell(
        Story(arrived=100.0, marks=(0.1,), end=ANSWERED), Story(arrived=100.5, marks=(0.2,))
    )
    teller.tell(Story(arrived=101.5, marks=(0.1,), end=ANSWERED), skip=3)
    page = teller.ask("lags=ttft:2;duration:2;errors:0.1&since=100", at=106.0)
    assert page["lost"] == 3
    ttft = {row[2]: row[3:6] for row in page["closed"] if row[0] == "ttft"}
    # The second request was in flight when records were lost: its end may have been among them.
    assert ttft[100] == [0, [[grid.bucket_of(0.1), 1]], []]
    assert ttft[101] == [0, [[grid.bucket_of(0.1), 1]], []]
    assert [row[3] for row in page["closed"] if row[0] == "duration"] == [0, 0]
    assert page["in_flight"] == 0
    # What was asked at an age from before the loss is still known.
    assert [0.1, 100, 2, 0, 0] in page["outcomes"]


def test_records_lost_at_the_very_beginning_are_counted() -> None:
    teller = Teller()
    teller.tell(Story(), skip=5)
    assert teller.ask(at=101.0)["lost"] == 5


def test_datagram_that_comes_twice_counts_once() -> None:
    teller = Teller()
    datagram = teller.datagram(teller.records(Story(marks=(0.1,))))
    teller.sampler.take(datagram)
    teller.sampler.take(datagram)
    page = teller.ask(at=101.0)
    assert (page["arrivals"]["live"], page["lost"]) == (1, 0)


def test_datagrams_of_strangers_are_not_taken() -> None:
    teller = Teller()
    datagram = teller.datagram(teller.records(Story()))
    for strange in (b"", b"\0" * 12, b"\0" * 8 + datagram[8:], datagram[:-1], datagram + b"x"):
        teller.sampler.take(strange)
    assert teller.ask()["tap"] is False
    assert teller.ask()["arrivals"]["live"] == 0


def test_request_that_the_tap_lost_sight_of_says_nothing() -> None:
    teller = Teller()
    teller.tell(Story(arrived=100.0))
    forgotten = teller.record(wire.FORGET, 0, 0, 100.5)
    teller.sampler.take(teller.datagram([forgotten]))
    page = teller.ask("lags=ttft:0.1,2;errors:2&since=100", at=104.0)
    assert [(row[1], row[3]) for row in page["closed"]] == [(0.1, 1)]
    assert (page["outcomes"], page["in_flight"]) == ([], 0)


def test_memory_is_bounded_and_what_is_dropped_moves_the_start_of_what_is_covered() -> None:
    cohorts = Cohorts(kept_requests=10)
    for number in range(25):
        request = Request((1, number), 100 + number / 5, streamed=True, mirrored=False)
        cohorts.start(request)
    assert cohorts.dropped == 15
    assert cohorts.gone_before == 103
    assert [second for second, _ in cohorts.between(0, 1000)] == [103, 104]
    assert cohorts.in_flight == 10
    cohorts.start(Request((1, 99), 102.9, streamed=True, mirrored=False))
    assert cohorts.dropped == 16, "a second that is gone does not come back half"


def test_many_silent_processes_do_not_pile_up() -> None:
    teller = Teller()
    for life in range(1, 200):
        teller.clock += 0.01
        teller.tell(Story(arrived=teller.clock), life=life)
    assert teller.ask()["processes"] <= 64


# -- bad questions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("nonsense=1", "'nonsense' is no field"),
        ("since", "'since' is no field"),
        ("since=1&since=2", "since is given twice"),
        ("since=abc", "'abc' in since is no number"),
        ("since=nan", "'nan' in since is no number"),
        ("since=-1", "'-1' in since is no number"),
        ("since=200", "since lies 100.000 s in the future"),
        ("lags=ttft", "'' in lags is no number"),
        ("lags=ttft:", "'' in lags is no number"),
        ("lags=ttft:0", "values of ttft in lags must differ and lie above 0"),
        ("lags=ttft:2,2", "values of ttft in lags must differ"),
        ("lags=ttft:601", "'601' in lags is no number of seconds up to 600"),
        ("lags=ttft:2;ttft:3", "lags names ttft twice"),
        ("lags=speed:2", "lags names 'speed'"),
        ("lags=ttft:" + ",".join(str(n) for n in range(1, 20)), "lags gives 19 values for ttft"),
        ("exact=errors:2", "exact names 'errors'"),
        ("lags=e2e:2", "e2e, which needs reference"),
        ("reference=3", "reference must be a power of two"),
        ("reference=0", "reference must be a power of two"),
        ("reference=-4", "reference must be a power of two"),
        ("reference=99999999999999999999", "reference must be a power of two"),
    ],
)
def test_bad_question_gets_400_and_one_sentence(query: str, words: str) -> None:
    page = Teller().page(query)
    assert page.status == 400
    assert words in page.body
    assert page.body.count("\n") == 1
    assert len(page.body) < 200


def test_question_may_be_percent_encoded() -> None:
    teller = Teller()
    teller.tell(Story(marks=(0.1,)))
    teller.clock = 104.0
    assert json.loads(teller.page("lags=ttft%3A2%3Berrors%3A2&since=100").body)["closed"]
