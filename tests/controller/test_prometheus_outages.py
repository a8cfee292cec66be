"""What counts after an outage of Prometheus, whose data have a gap then (time by looptime)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from llmrollouts.api.reasons import Reason
from llmrollouts.metrics.prometheus_answer import Unanswered
from tests.controller.prometheus_bench import (
    LOOKS_BACK,
    START,
    Bench,
    in_next_step,
    make_gate,
    open_bench,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

bench = pytest_asyncio.fixture(open_bench)

AWAY = Unanswered(Reason.NOT_REACHED, "the connection failed")


def _gate(**given: Any) -> dict[str, Any]:
    given = {"query": LOOKS_BACK, "limit": {"min": "0.9"}, **given}
    return make_gate(failuresForFailed=1, **given)


async def _flow(bench: Bench, gate: dict[str, Any]) -> None:
    """Good answers until requests have flowed for as long as the query looks back."""
    bench.prometheus.answers = [1.0]
    bench.judge(gate)
    await asyncio.sleep(150)
    assert bench.judge(gate).verdict == "Passed"


async def _outage(bench: Bench, gate: dict[str, Any]) -> None:
    bench.prometheus.answers = [AWAY]
    await asyncio.sleep(60)
    assert bench.judge(gate).verdict == "Error"


async def test_a_bad_answer_after_an_outage_counts_once_it_is_not_about_the_gap(
    bench: Bench,
) -> None:
    gate = _gate(maxErrors=1)
    await _flow(bench, gate)
    await _outage(bench, gate)
    bench.prometheus.answers = [0.5]
    await asyncio.sleep(30)
    for _ in range(4):
        found = bench.judge(gate)
        assert (found.verdict, found.reason) == ("Inconclusive", Reason.LIMIT_BROKEN)
        assert "2m, and Prometheus answers again for less than that" in found.message
        await asyncio.sleep(30)
    assert bench.judge(gate).verdict == "Failed"


async def test_errors_that_make_no_outage_delay_nothing(bench: Bench) -> None:
    gate = _gate(maxErrors=4)
    await _flow(bench, gate)
    bench.prometheus.answers = [AWAY, AWAY, 0.5]
    await asyncio.sleep(91)
    assert bench.judge(gate).verdict == "Failed"


async def test_the_next_step_remembers_the_outage_of_the_one_before(bench: Bench) -> None:
    gate = _gate(maxErrors=1)
    await _flow(bench, gate)
    await _outage(bench, gate)
    bench.prometheus.answers = [1.0]
    await asyncio.sleep(30)
    assert bench.judge(gate).verdict == "Passed"
    bench.prometheus.answers = [0.5]
    status = in_next_step(START + timedelta(minutes=4))
    bench.judge(gate, status=status)
    await asyncio.sleep(31)
    assert bench.judge(gate, status=status).verdict == "Inconclusive"
    await asyncio.sleep(120)
    assert bench.judge(gate, status=status).verdict == "Failed"


async def test_an_edit_during_an_outage_does_not_end_it(bench: Bench) -> None:
    gate = _gate(maxErrors=1)
    await _flow(bench, gate)
    await _outage(bench, gate)
    edited = _gate(maxErrors=1, limit={"min": "0.8"})
    bench.prometheus.answers = [0.5]
    bench.judge(edited)
    await asyncio.sleep(31)
    assert bench.judge(edited).verdict == "Inconclusive"
    await asyncio.sleep(120)
    assert bench.judge(edited).verdict == "Failed"
