"""What is a page of samples, and what is refused."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest

from llmrollouts.analysis.counts import Measurement, Metric, Stream
from llmrollouts.metrics.page import LONGEST_PAGE, PageError, make_parameters, parse_page
from worker_image.launcher.samples_query import parse_query

ASKED = Measurement(
    lags={Metric.TTFT: (2.0,), Metric.E2E: (4.2, 8.0)},
    exact={Metric.TTFT: (0.35, 0.12)},
    reference_tokens=64,
    outcome_lags=(2.0, 30.0),
)


def make_raw(**changes: Any) -> dict[str, Any]:
    raw = {
        "version": 1,
        "boot": "a1",
        "now": 100.5,
        "since": 99.5,
        "processes": 1,
        "lost": 0,
        "tap": True,
        "closed": [["ttft", 2.0, 97, 1, [[140, 3]], [[90, 1]], [[2, 5], [3, 5]]]],
        "outcomes": [[2.0, 97, 5, 1, 0]],
        "arrivals": {"live": 7, "mirrored": 3},
        "in_flight": 2,
        "oldest": 1.5,
        "tokens": [[6, 4]],
        "cut": 1,
    }
    return {**raw, **changes}


def parse(raw: object) -> Any:
    return parse_page(json.dumps(raw).encode(), "pod-1", ASKED)


def test_a_page_is_read_whole() -> None:
    page = parse(make_raw())
    ((stream, cohort, counts),) = page.closed
    assert (stream, cohort) == (Stream(Metric.TTFT, 2.0), 97)
    assert (counts.done, counts.left, counts.over) == ({140: 3}, {90: 1}, 1)
    assert counts.beyond == ((2, 5), (3, 5))
    ((lag, _, ends),) = page.ends
    assert (lag, ends.total, ends.failed) == (2.0, 5, 1)
    assert (page.live, page.mirrored, page.cut, page.tokens[6]) == (7, 3, 1, 4)


def test_the_launcher_understands_what_is_asked() -> None:
    query = parse_query(make_parameters(ASKED, 12.25, "a1"))
    assert (query.since, query.boot, query.reference) == (12.25, "a1", 64)
    assert query.streams == (("ttft", 2.0), ("e2e", 4.2), ("e2e", 8.0))
    assert (query.outcome_lags, query.exact) == ((2.0, 30.0), {"ttft": (0.35, 0.12)})


def test_a_clock_is_asked_for_with_no_words() -> None:
    assert parse_qs(make_parameters(None, None, None)) == {}


@pytest.mark.parametrize(
    "broken",
    [
        {"version": 2},
        {"version": None},
        {"boot": ""},
        {"boot": 7},
        {"now": -1},
        {"now": "5"},
        {"now": True},
        {"since": 101.0},
        {"tap": 1},
        {"lost": -1},
        {"lost": 1.5},
        {"arrivals": {"live": -3}},
        {"arrivals": 3},
        {"tokens": [[6, -4]]},
        {"tokens": [[1, 2, 3]]},
        {"closed": [["ttft", 3.0, 97, 1, [], [], [[0, 0], [0, 0]]]]},
        {"closed": [["tpot", 2.0, 97, 1, [], [], []]]},
        {"closed": [["ttft", 2.0, 97, -1, [], [], [[0, 0], [0, 0]]]]},
        {"closed": [["ttft", 2.0, 97, 1, [[999, 1]], [], [[0, 0], [0, 0]]]]},
        {"closed": [["ttft", 2.0, 97, 1, [[5, 1], [5, 1]], [], [[0, 0], [0, 0]]]]},
        {"closed": [["ttft", 2.0, 97, 1, [[5, -1]], [], [[0, 0], [0, 0]]]]},
        {"closed": [["ttft", 2.0, 97, 1, [], [], [[0, 0]]]]},
        {"closed": [["ttft", 2.0, 97, 1, [], [], [[3, 2], [0, 0]]]]},
        {"closed": [["ttft", 2.0, 200, 1, [], [], [[0, 0], [0, 0]]]]},
        {"closed": [["ttft", 2.0, -1, 1, [], [], [[0, 0], [0, 0]]]]},
        {"closed": [["ttft", 2.0, 97, 0, [], [], [[0, 0], [0, 0]]]] * 2},
        {"closed": [7]},
        {"outcomes": [[5.0, 97, 5, 1, 0]]},
        {"outcomes": [[2.0, 97, 5, 6, 0]]},
        {"outcomes": [[2.0, 97, 5, 1]]},
    ],
)
def test_what_is_no_page_is_an_error_that_names_the_worker(broken: dict[str, Any]) -> None:
    with pytest.raises(PageError, match="pod-1"):
        parse(make_raw(**broken))


@pytest.mark.parametrize("missing", ["version", "boot", "now", "since", "tap"])
def test_a_page_without_its_head_is_none(missing: str) -> None:
    raw = make_raw()
    del raw[missing]
    with pytest.raises(PageError):
        parse(raw)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"{" * 100_000,
        json.dumps(make_raw()).replace("100.5", "NaN").encode(),
        json.dumps(make_raw()).replace("100.5", "Infinity").encode(),
        b" " * (LONGEST_PAGE + 1),
    ],
    ids=["empty", "list", "no text", "deep", "NaN", "infinite", "long"],
)
def test_r08_nan_and_nonsense_are_no_page(body: bytes) -> None:
    with pytest.raises(PageError, match="pod-1"):
        parse_page(body, "pod-1", ASKED)
