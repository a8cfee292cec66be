"""Shares and durations: exact, and one text for each value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.api.duration import format_duration, parse_duration
from llmrollouts.api.share import ALL, NONE, WHOLE, Share


@pytest.mark.parametrize(
    ("text", "ppm"),
    [("0%", 0), ("0.0001%", 1), ("0.01%", 100), ("0.5%", 5_000), ("5%", 50_000), ("100%", WHOLE)],
)
def test_a_share_is_exact_to_one_part_in_a_million(text: str, ppm: int) -> None:
    assert Share.parse(text) == Share(ppm)
    assert str(Share(ppm)) == text


@given(st.integers(0, WHOLE))
def test_every_share_survives_being_written_and_read(ppm: int) -> None:
    assert Share.parse(str(Share(ppm))).ppm == ppm


@pytest.mark.parametrize(
    "text", ["half", "5", "-1%", "100.1%", "1e1%", "0.00001%", "\u0665%", "", "%"]
)
def test_what_is_no_share_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 0\.5%"):
        Share.parse(text)


def test_shares_compare_as_numbers() -> None:
    assert NONE < Share.parse("9%") < Share.parse("10%") < ALL
    assert not NONE
    assert Share.parse("0.0001%")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800.0), ("1h30m", 5400.0), ("500ms", 0.5), ("24h", 86_400.0)]
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "5", "1d", "-1m", "1 m", "m", "1h" * 5])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 30m"):
        parse_duration(text)
