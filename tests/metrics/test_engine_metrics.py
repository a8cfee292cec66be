"""vLLM's page of metrics, read strictly: what counts, and what is no page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from llmrollouts.analysis.counts import Metric
from llmrollouts.metrics.engine_metrics import (
    FAMILIES,
    EngineMetrics,
    HttpEnds,
    NoEngineMetrics,
    parse_engine_metrics,
)
from tests.fakes.engines import E2E, TPOT, TTFT, PageWriter, vllm_bounds

CONTRACT = Path(__file__).parents[1] / "worker_image" / "contract" / "vllm-0.32.0.json"


def parse(page: PageWriter) -> EngineMetrics:
    return parse_engine_metrics(page.text().encode(), "w0")


def test_each_request_counts_once_in_each_histogram_and_tokens_never() -> None:
    page = PageWriter()
    page.observe(TTFT, 0.03)
    page.observe(TTFT, 0.04)
    page.observe(TTFT, 9999.0)
    page.observe(TPOT, 0.011)
    page.observe(E2E, 0.4)
    page.statuses["5xx"] = 2
    page.statuses["4xx"] = 3
    page.ends |= {"length": 4, "error": 1}
    page.running = 6
    found = parse(page)
    ttft = found.histograms[Metric.TTFT]
    assert [b for b, n in zip(ttft.bounds, ttft.counts, strict=True) if n] == [0.04, math.inf]
    assert (ttft.total, found.histograms[Metric.TPOT].total) == (3, 1)
    assert found.histograms.keys() == {Metric.TTFT, Metric.TPOT, Metric.DURATION}
    assert found.http == HttpEnds(total=5, failed=2, refused=3, other=7)
    assert (found.ended, found.broken, found.in_flight) == (5, 1, 6)


def test_the_names_and_bounds_are_those_of_the_recorded_vllm() -> None:
    families = json.loads(CONTRACT.read_text(encoding="utf-8"))["metrics"]["families"]
    for name in FAMILIES:
        assert families[name]["type"] == "histogram"
        assert [float(bound) for bound in families[name]["buckets"][:-1]] == vllm_bounds(name)
    assert {"handler", "method", "status"} <= set(families["http_requests_total"]["labels"])
    assert "finished_reason" in families["vllm:request_success_total"]["labels"]
    assert {"process_start_time_seconds", "vllm:num_requests_running"} <= families.keys()


def test_several_engines_behind_one_api_server_are_added() -> None:
    page = PageWriter()
    page.observe(TTFT, 0.03)
    twice = page.text() + "\n".join(
        line.replace('engine="0"', 'engine="1"')
        for line in page.text().splitlines()
        if line.startswith(TTFT)
    )
    found = parse_engine_metrics((twice + "\n").encode(), "w0")
    assert found.histograms[Metric.TTFT].total == 2


def test_an_api_server_that_counts_no_answers_is_read_without_them() -> None:
    page = PageWriter(hidden={"http_requests_total"})
    page.ends |= {"length": 3}
    assert (parse(page).http, parse(page).ended) == (None, 3)


@pytest.mark.parametrize(
    ("hidden", "told"),
    [
        (TTFT, "has no vllm:time_to_first_token_seconds"),
        ("llmrollouts_launcher", "does not count its probes"),
    ],
)
def test_a_page_without_what_is_needed_is_none(hidden: str, told: str) -> None:
    with pytest.raises(NoEngineMetrics, match=f"w0 has no tap.*{told}"):
        parse(PageWriter(hidden={hidden}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('le="0.04"} 1.0', 'le="0.04"} NaN'),
        ('le="0.04"} 1.0', 'le="0.04"} -1.0'),
        ('le="0.04"} 1.0', 'le="0.04"} 0.5'),
        ('le="0.04"} 1.0', 'le="0.04"} 7.0'),
        ('le="0.04"} 1.0', 'le="nan"} 1.0'),
        ('le="0.04"} 1.0', 'le="-1"} 1.0'),
        ('le="0.04"} 1.0', 'le="0.04"} seven'),
        (',le="+Inf"', ',le="99999"'),
        (',le="0.04"', ',other="0.04"'),
        ('le="0.04"} 1.0', 'le="0.04'),
    ],
)
def test_what_is_no_count_is_no_data(old: str, new: str) -> None:
    page = PageWriter()
    page.observe(TTFT, 0.03)
    text = page.text()
    spoiled = "\n".join(
        line.replace(old, new) if line.startswith(TTFT) else line for line in text.splitlines()
    )
    assert spoiled + "\n" != text
    with pytest.raises(NoEngineMetrics, match="w0 has no tap, and its engine's page"):
        parse_engine_metrics((spoiled + "\n").encode(), "w0")


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"\xff\xfe", b"{}", b"vllm:x 1\n" * 9])
def test_what_is_no_page_of_metrics_is_said(body: bytes) -> None:
    with pytest.raises(NoEngineMetrics, match="w0 has no tap"):
        parse_engine_metrics(body, "w0")
