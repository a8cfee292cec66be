"""Placeholders, and the metrics that an expression names."""

from __future__ import annotations

import pytest

from llmrollouts.metrics.prometheus_query import (
    ask_for_young_data,
    fill_in,
    find_metrics,
    look_back,
)


def test_placeholders_become_the_revision_and_its_deployment() -> None:
    query = 'x{r="{{revision}}",n="{{namespace}}",d="{{name}}",both="{{name}}-{{revision}}"}'
    filled = fill_in(query, revision="aaaa", namespace="prod", name="chat")
    assert filled == 'x{r="aaaa",n="prod",d="chat",both="chat-aaaa"}'


def test_a_value_is_not_filled_in_again() -> None:
    assert fill_in("{{revision}}", revision="{{name}}", namespace="n", name="x") == "{{name}}"


@pytest.mark.parametrize(
    ("query", "metrics"),
    [
        ("up", ("up",)),
        ('up{job="a"}', ('up{job="a"}',)),
        ('up {job="a}b"} offset 5m', ('up{job="a}b"}',)),
        ("sum(rate(x_total[5m])) by (pod)", ("x_total",)),
        ("sum by (pod, le) (rate(x_total[5m]))", ("x_total",)),
        ("a / on (pod) group_left (zone) b", ("a", "b")),
        ("a + ignoring(pod) b unless c", ("a", "b", "c")),
        ("a / a", ("a",)),
        ("histogram_quantile(0.99, sum by (le) (rate(x_bucket[1e1m])))", ("x_bucket",)),
        ('{__name__=~"a|b"}', ('{__name__=~"a|b"}',)),
        ('label_replace(up, "x", "$1", "y", "(.*)")', ("up",)),
        ("max_over_time(rate(x[1m])[10m:30s] offset 1h)", ("x",)),
        ("x @ end()", ("x",)),
        ("x > bool 5 # not_a_metric", ("x",)),
        ("job:x:rate5m == bool Inf", ("job:x:rate5m",)),
        ("-0x1F + 1e3 + .5 + vector(1)", ()),
        ("count_values('x', y)", ("y",)),
        ("quantile(0.9, x{a=`}`})", ("x{a=`}`}",)),
    ],
)
def test_the_metrics_of_an_expression(query: str, metrics: tuple[str, ...]) -> None:
    assert find_metrics(query) == metrics


def test_young_data_are_asked_of_every_metric_and_one_is_enough() -> None:
    assert ask_for_young_data('sum(a{x="1"}) / b', 90.0) == (
        'count(count_over_time(a{x="1"}[90000ms])) or count(count_over_time(b[90000ms]))'
    )


def test_an_expression_without_metrics_has_no_age() -> None:
    assert ask_for_young_data("vector(1)", 60.0) is None


@pytest.mark.parametrize("query", ["", "{", '"', "sum(", "a{b", "]]", "by (", "\x00", "{{{{"])
def test_nonsense_ends_without_an_error(query: str) -> None:
    find_metrics(query)


def test_a_long_expression_takes_no_time() -> None:
    assert find_metrics("(" * 2000 + "x" + ")" * 2000) == ("x",)
    find_metrics("{" * 4096)
    find_metrics('"' + "\\" * 4095)
    find_metrics('{a="' * 1024)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("up", 0),
        ("rate(x[2m])", 120),
        ("rate(x[90])", 90),
        ("rate(x[1h30m]) / rate(y[500ms])", 5400),
        ("max_over_time(rate(x[1m])[10m:30s] offset 1h)", 660),
        ('x{a="[5m]"} + rate(y[20s])', 20),
        ("x # [1h]", 0),
    ],
)
def test_an_answer_is_made_of_the_longest_range_of_the_past(query: str, seconds: float) -> None:
    assert look_back(query) == seconds
