"""From single answers to a verdict: no error ever passes or fails anything."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus_answer import Unanswered, read_sample
from llmrollouts.metrics.prometheus_verdict import (
    Bound,
    Patience,
    Standing,
    take_answer,
    take_error,
)

AT_MOST = Bound(0.25, upper=True, ratio=False)
PATIENCE = Patience(failures=2, errors=3)
NAN = Unanswered(Reason.NOT_A_NUMBER, "the answer is NaN")
BAD_QUERY = Unanswered(Reason.QUERY_INVALID, "no", lasting=True)


def follow(*events: float | Unanswered, bound: Bound = AT_MOST) -> Standing:
    standing = Standing()
    for number, event in enumerate(events):
        if isinstance(event, Unanswered):
            standing = take_error(standing, PATIENCE, event)
        else:
            standing = take_answer(standing, bound, PATIENCE, event, None, float(number))
    return standing


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ((), "Inconclusive"),
        ((0.2,), "Passed"),
        ((0.25,), "Passed"),
        ((0.3,), "Inconclusive"),
        ((0.3, 0.3), "Failed"),
        ((0.3, 0.2, 0.3), "Inconclusive"),
        ((0.2, 0.3), "Inconclusive"),
        ((0.2, NAN), "Passed"),
        ((0.2, NAN, NAN), "Passed"),
        ((0.2, NAN, NAN, NAN), "Error"),
        ((NAN,), "Inconclusive"),
        ((NAN, NAN, NAN), "Error"),
        ((0.3, NAN), "Inconclusive"),
        ((0.3, NAN, 0.3), "Failed"),
        ((0.3, NAN, NAN, NAN, 0.3), "Inconclusive"),
        ((NAN, NAN, NAN, 0.2), "Passed"),
        ((BAD_QUERY,), "Error"),
        ((0.2, BAD_QUERY), "Error"),
        ((0.2, BAD_QUERY, NAN), "Inconclusive"),
    ],
)
def test_what_answers_in_a_row_amount_to(
    events: tuple[float | Unanswered, ...], verdict: str
) -> None:
    assert follow(*events).verdict == verdict


def test_a_lower_bound_is_broken_from_below() -> None:
    at_least = Bound(0.25, upper=False, ratio=False)
    assert follow(0.25, bound=at_least).verdict == "Passed"
    assert follow(0.2, 0.2, bound=at_least).verdict == "Failed"


def test_a_comparison_divides_by_stable() -> None:
    bound = Bound(1.2, upper=True, ratio=True)
    slower = take_answer(Standing(), bound, Patience(1, 1), 0.31, 0.2, 0.0)
    assert slower.verdict == "Failed"
    assert "0.31 against stable's 0.2, a ratio of 1.55; allowed is at most 1.2" in slower.message
    assert take_answer(Standing(), bound, Patience(1, 1), 0.24, 0.2, 0.0).verdict == "Passed"


def test_a_failure_tells_its_numbers_and_since_when() -> None:
    standing = follow(0.2, 0.31, 0.32, 0.33)
    assert standing.message == "0.33; allowed is at most 0.25 (3 times in a row)"
    assert (standing.bad_since, standing.decided) == (1.0, 2.0)


def test_where_one_answer_decides_nothing_is_counted() -> None:
    failed = take_answer(Standing(), AT_MOST, Patience(1, 1), 0.31, None, 0.0)
    assert failed.message == "0.31; allowed is at most 0.25"
    assert take_error(Standing(), Patience(1, 1), NAN).message == "the answer is NaN"


def test_errors_tell_their_number() -> None:
    assert follow(NAN, NAN, NAN).message == "the answer is NaN (3 times in a row)"
    assert follow(NAN).message == "the answer is NaN (once; 3 in a row are an error)"


ERRORS = st.sampled_from([NAN, BAD_QUERY, Unanswered(Reason.NOT_REACHED, "away")])


@given(st.lists(ERRORS, max_size=20))
def test_errors_alone_neither_pass_nor_fail(events: list[Unanswered]) -> None:
    assert follow(*events).verdict in ("Inconclusive", "Error")


@given(st.lists(st.one_of(ERRORS, st.floats(0, 1)), max_size=30))
def test_passed_needs_a_good_last_number_and_failed_two_bad_ones(
    events: list[float | Unanswered],
) -> None:
    numbers = [event for event in events if not isinstance(event, Unanswered)]
    verdict = follow(*events).verdict
    if verdict == "Passed":
        assert numbers[-1] <= 0.25
    if verdict == "Failed":
        assert min(numbers[-2:]) > 0.25
        assert len(numbers) >= 2


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([], Reason.NO_SERIES),
        ([{"value": [1, "1"]}, {"value": [1, "2"]}], Reason.SEVERAL_SERIES),
        ([{"values": [[1, "1"]]}], Reason.NOT_A_NUMBER),
        ([{"value": [1, "NaN"]}], Reason.NOT_A_NUMBER),
        ([{"value": [1, "+Inf"]}], Reason.NOT_A_NUMBER),
        ([1, "-Inf"], Reason.NOT_A_NUMBER),
        ([{"value": [1]}], Reason.UNUSABLE_ANSWER),
        ([{"value": [1, "one"]}], Reason.UNUSABLE_ANSWER),
        ([{"value": ["NaN", "1"]}], Reason.UNUSABLE_ANSWER),
        ([{"value": None}], Reason.UNUSABLE_ANSWER),
        ([{"value": [1, None]}], Reason.UNUSABLE_ANSWER),
        (["x"], Reason.NOT_A_NUMBER),
        ({"a": 1}, Reason.UNUSABLE_ANSWER),
        (None, Reason.UNUSABLE_ANSWER),
        ("ab", Reason.UNUSABLE_ANSWER),
    ],
)
def test_what_is_no_single_number_is_told_apart(result: object, reason: Reason) -> None:
    with pytest.raises(Unanswered) as caught:
        read_sample(result, "x")
    assert caught.value.reason is reason


def test_a_number_has_its_time() -> None:
    assert read_sample([{"metric": {}, "value": [12.5, "0.5"]}], "x").at == 12.5
    assert math.isclose(read_sample([12.5, "0.5"], "x").value, 0.5)


def test_a_long_query_is_shown_in_part() -> None:
    with pytest.raises(Unanswered) as caught:
        read_sample([], "x" * 4096)
    assert len(caught.value.message) < 600


def test_an_early_bad_answer_counts_for_nothing_and_an_early_good_one_passes() -> None:
    early = take_answer(Standing(), AT_MOST, PATIENCE, 0.3, None, 0.0, "too early")
    assert (early.verdict, early.bad, early.bad_since) == ("Inconclusive", 0, None)
    assert early.message.endswith("(too early)")
    assert take_answer(early, AT_MOST, PATIENCE, 0.3, None, 1.0).verdict == "Inconclusive"
    assert take_answer(early, AT_MOST, PATIENCE, 0.2, None, 1.0, "too early").verdict == "Passed"
