"""Plots name the moment of an arrival so that a person can look it up in a log."""

from __future__ import annotations

from llmrollouts.cli.charts import say_second


def test_seconds_of_a_running_rollout_are_times_of_day_and_those_of_a_trace_its_own() -> None:
    assert say_second(1_795_411_619) == "05:26:59Z"
    assert say_second(98_400) == "98,400 s"
