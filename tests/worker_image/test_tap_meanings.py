"""What the page says of each kind of request: the definitions of docs/worker-tap.md."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker_image.tap_stories import Story, Teller
from worker_image.launcher.grid import bucket_of
from worker_image.launcher.tap.llmrollouts_tap import wire

LAG = 2.0
REFERENCE = 4
QUERY = "lags=ttft:2;tpot:2;e2e:2;duration:2;errors:2&reference=4&since=0"

DONE, LEFT, OVER = "done", "left", "over"


def told(*stories: Story, query: str = QUERY) -> dict[str, Any]:
    """metric -> (kind, value's bucket) of one request; "outcome" -> (total, failed, refused)."""
    teller = Teller()
    teller.tell(*stories)
    page = teller.ask(query, at=150.0)
    found: dict[str, Any] = {}
    for metric, lag, cohort, over, done, left, _ in page["closed"]:
        assert (lag, cohort) == (LAG, 100)
        found[metric] = (
            [(DONE, bucket) for bucket, count in done for _ in range(count)]
            + [(LEFT, bucket) for bucket, count in left for _ in range(count)]
            + [(OVER, None)] * over
        )
    for lag, cohort, *numbers in page["outcomes"]:
        assert (lag, cohort) == (LAG, 100)
        found["outcome"] = tuple(numbers)
    return found


def done(value: float) -> list[tuple[str, int]]:
    return [(DONE, bucket_of(value))]


def left(age: float) -> list[tuple[str, int]]:
    return [(LEFT, bucket_of(age))]


OVER_ALL = {"ttft": [(OVER, None)], "tpot": [(OVER, None)], "e2e": [(OVER, None)]}
EVERYTHING_OVER = {**OVER_ALL, "duration": [(OVER, None)]}

CASES: dict[str, tuple[Story, dict[str, Any]]] = {
    "finished in time": (
        Story(marks=(0.3, 0.4, 0.6), end=(wire.OK, 1.1, 7, 0.9)),
        {
            "ttft": done(0.3),
            "tpot": done((0.9 - 0.3) / 6),
            "e2e": done(0.6),
            "duration": done(1.1),
            "outcome": (1, 0, 0),
        },
    ),
    "hangs without an answer": (Story(), {**EVERYTHING_OVER, "outcome": (1, 0, 0)}),
    "hangs without a stream": (
        Story(streamed=False),
        {"e2e": [(OVER, None)], "duration": [(OVER, None)], "outcome": (1, 0, 0)},
    ),
    "in flight with one token": (
        Story(marks=(0.5,)),
        {
            "ttft": done(0.5),
            "tpot": done(2 - 0.5),
            "e2e": [(OVER, None)],
            "duration": [(OVER, None)],
            "outcome": (1, 0, 0),
        },
    ),
    "in flight, slow between its marks": (
        Story(marks=(0.5, 1.7)),
        {
            "ttft": done(0.5),
            "tpot": done(1.7 - 0.5),  # the marks say more than the age: (2 - 0.5) / 3
            "e2e": [(OVER, None)],
            "duration": [(OVER, None)],
            "outcome": (1, 0, 0),
        },
    ),
    "in flight, stalled after its marks": (
        Story(marks=(0.1, 0.2, 0.3)),
        {
            "ttft": done(0.1),
            "tpot": done((2 - 0.1) / 7),  # fewer than 8 tokens until now
            "e2e": done(0.3),
            "duration": [(OVER, None)],
            "outcome": (1, 0, 0),
        },
    ),
    "answered only after the lag": (
        Story(marks=(2.5, 2.6), end=(wire.OK, 3.0, 2, 2.6)),
        {**EVERYTHING_OVER, "outcome": (1, 0, 0)},
    ),
    "failed only after the lag": (
        Story(marks=(0.5, 0.6), end=(wire.FAILED, 3.0, 2, 0.6), status=200),
        {
            "ttft": done(0.5),
            "tpot": done((2 - 0.5) / 3),
            "e2e": [(OVER, None)],
            "duration": [(OVER, None)],
            "outcome": (1, 0, 0),
        },
    ),
    "client left before the first token": (
        Story(end=(wire.LEFT, 1.4, 0, 1.4)),
        {"ttft": left(1.4), "e2e": left(1.4), "duration": left(1.4)},
    ),
    "client left after the first token": (
        Story(marks=(0.3,), end=(wire.LEFT, 1.4, 1, 0.3)),
        {
            "ttft": done(0.3),
            "tpot": left(1.4 - 0.3),
            "e2e": left(1.4),
            "duration": left(1.4),
            "outcome": (1, 0, 0),
        },
    ),
    "client left after the reference token": (
        Story(marks=(0.3, 0.4, 0.6), end=(wire.LEFT, 1.4, 5, 0.7)),
        {
            "ttft": done(0.3),
            "tpot": done((0.7 - 0.3) / 4),
            "e2e": done(0.6),
            "duration": left(1.4),
            "outcome": (1, 0, 0),
        },
    ),
    "client left without a stream": (
        Story(streamed=False, end=(wire.LEFT, 1.4, 0, 1.4)),
        {"e2e": left(1.4), "duration": left(1.4)},
    ),
    "one token": (
        Story(marks=(0.3,), end=(wire.OK, 0.35, 1, 0.3)),
        {"ttft": done(0.3), "duration": done(0.35), "outcome": (1, 0, 0)},
    ),
    "shorter than the reference": (
        Story(marks=(0.3, 0.5), end=(wire.OK, 0.7, 3, 0.6)),
        {
            "ttft": done(0.3),
            "tpot": done(0.15),
            "e2e": done(0.3 + 0.4 * 3 / 2),
            "duration": done(0.7),
            "outcome": (1, 0, 0),
        },
    ),
    "not streamed": (
        Story(streamed=False, end=(wire.OK, 1.0, 16, 1.0)),
        {"e2e": done(0.25), "duration": done(1.0), "outcome": (1, 0, 0)},
    ),
    "not streamed, one token": (
        Story(streamed=False, end=(wire.OK, 1.0, 1, 1.0)),
        {"duration": done(1.0), "outcome": (1, 0, 0)},
    ),
    "server error": (
        Story(end=(wire.FAILED, 0.1, 0, 0.1), status=500),
        {**EVERYTHING_OVER, "outcome": (1, 1, 0)},
    ),
    "error inside the stream": (
        Story(marks=(0.1, 0.2), end=(wire.FAILED, 0.3, 2, 0.2)),
        {**EVERYTHING_OVER, "outcome": (1, 1, 0)},
    ),
    "truncated": (
        Story(marks=(0.1,), end=(wire.TRUNCATED, 0.3, 1, 0.1)),
        {**EVERYTHING_OVER, "outcome": (1, 1, 0)},
    ),
    "cut": (
        Story(marks=(0.1,), end=(wire.CUT, 0.3, 1, 0.1)),
        {**EVERYTHING_OVER, "outcome": (1, 1, 0)},
    ),
    "empty": (
        Story(end=(wire.EMPTY, 0.1, 0, 0.1)),
        {**EVERYTHING_OVER, "outcome": (1, 1, 0)},
    ),
    "refused": (
        Story(end=(wire.REFUSED, 0.1, 0, 0.1), status=400),
        {"outcome": (1, 0, 1)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_meaning_of(case: str) -> None:
    story, expected = CASES[case]
    assert told(story) == expected


def test_request_is_asked_at_its_own_age_and_not_when_its_second_closes() -> None:
    late = Story(arrived=100.9, marks=(1.95,))
    early = Story(arrived=100.0, marks=(2.05,))
    assert sorted(told(late, early)["ttft"]) == sorted([*done(1.95), (OVER, None)])


def test_answer_with_one_token_counts_for_the_first_token_as_reference() -> None:
    story = Story(marks=(0.3,), end=(wire.OK, 0.4, 1, 0.3))
    found = told(story, query=QUERY.replace("reference=4", "reference=1"))
    assert found["e2e"] == done(0.3)


def test_requests_that_were_mirrored_count_in_the_cohort_and_apart_in_the_arrivals() -> None:
    teller = Teller()
    teller.tell(Story(marks=(0.1,)), Story(mirrored=True, marks=(0.2,)))
    page = teller.ask("lags=ttft:2&since=0", at=103.2)
    assert page["arrivals"] == {"live": 1, "mirrored": 1}
    assert sum(count for _, count in page["closed"][0][4]) == 2


def test_streams_that_broke_after_the_first_token_are_counted_for_users_only() -> None:
    teller = Teller()
    for how in (wire.CUT, wire.TRUNCATED, wire.FAILED):
        end = (how, 0.3, 1, 0.1)
        teller.tell(Story(marks=(0.1,), end=end), Story(marks=(0.1,), end=end, mirrored=True))
        teller.tell(Story(end=(how, 0.3, 0, 0.3)), Story(marks=(0.1,), end=(wire.OK, 1, 1, 0.1)))
    assert teller.ask(at=101.0)["cut"] == 3


def test_lengths_of_finished_answers_are_counted_by_powers_of_two() -> None:
    teller = Teller()
    for tokens in (1, 2, 3, 4, 7, 8):
        teller.tell(Story(marks=(0.1,), end=(wire.OK, 1.0, tokens, 0.9)))
    teller.tell(Story(marks=(0.1,), end=(wire.LEFT, 1.0, 64, 0.9)))
    assert teller.ask(at=102.0)["tokens"] == [[0, 1], [1, 2], [2, 2], [3, 1]]


def test_exact_values_are_counted_beside_the_buckets() -> None:
    teller = Teller()
    teller.tell(
        Story(marks=(0.30,)),
        Story(marks=(0.35,)),  # a value at the bound does not exceed it
        Story(marks=(0.40,)),
        Story(),
        Story(end=(wire.LEFT, 0.2, 0, 0.2)),
        Story(end=(wire.LEFT, 0.5, 0, 0.5)),
    )
    page = teller.ask("lags=ttft:2&exact=ttft:0.35,0.1;e2e:9&since=0", at=103.2)
    # Beyond 350 ms: 0.40, the hang, the client that left at 0.5; who left at 0.2 says nothing.
    assert page["closed"][0][6] == [[3, 5], [6, 6]]
    assert page["closed"][0][3] == 1


def test_requests_in_flight_and_the_age_of_the_oldest() -> None:
    teller = Teller()
    finished = Story(arrived=90.0, marks=(0.1,), end=(wire.OK, 1.0, 1, 0.1))
    teller.tell(finished, Story(arrived=95.0), Story(arrived=94.5), Story(arrived=99.0))
    page = teller.ask(at=100.0)
    assert (page["in_flight"], page["oldest"]) == (3, 5.5)
    empty = Teller().ask(at=100.0)
    assert (empty["in_flight"], empty["oldest"]) == (0, 0)
