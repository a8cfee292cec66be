"""Gates from Prometheus in the watch after the promotion: compared with the replaced revision."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus, WarmStatus
from tests.controller.prometheus_bench import (
    LOOKS_BACK,
    START,
    Bench,
    make_attempt,
    make_gate,
    make_status,
    observe,
    open_bench,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

bench = pytest_asyncio.fixture(open_bench)

RATIO = make_gate(name="ratio", limit=None, compare={"maxRatio": "1.2"})


def watching(share: str = "1%") -> LLMDeploymentStatus:
    """<bbbb> was promoted, and <aaaa>, still warm, answers ``share`` of the users."""
    return make_status(
        canary_revision=None,
        step=None,
        stable_revision="bbbb",
        warm=WarmStatus(revision="aaaa", until=START + timedelta(hours=1), share=share),
        attempt=make_attempt("bbbb/1/watch"),
    )


async def test_after_the_promotion_limits_go_on_for_the_new_revision(bench: Bench) -> None:
    bench.judge(status=watching())
    await asyncio.sleep(31)
    assert bench.prometheus.asked[0][1].queries == ('cost{r="bbbb"}',)
    gate = bench.judge(status=watching())
    assert (gate.verdict, gate.stage) == ("Passed", "bbbb/1/watch")


async def test_after_the_promotion_the_new_revision_is_compared_with_the_replaced_one(
    bench: Bench,
) -> None:
    bench.prometheus.answers = [(0.31, 0.2)]
    bench.judge(RATIO, status=watching())
    await asyncio.sleep(61)
    assert bench.prometheus.asked[0][1].queries == ('cost{r="bbbb"}', 'cost{r="aaaa"}')
    gate = bench.judge(RATIO, status=watching())
    assert (gate.verdict, gate.stage) == ("Failed", "bbbb/1/watch")
    assert "ratio of 1.55" in gate.message


async def test_a_comparison_rests_and_says_so_while_the_replaced_revision_has_no_requests(
    bench: Bench,
) -> None:
    bench.prometheus.answers = [0.2, (0.31, 0.2)]
    gates = (make_gate(), RATIO)
    for _ in range(10):
        limit, ratio = bench.gates.judge(observe(*gates, status=watching("0%")))
        assert (ratio.name, ratio.verdict) == ("prometheus/ratio", "Inconclusive")
        assert ratio.reason is Reason.COMPARISON_RESTS
        assert "aaaa gets no request now" in ratio.message
        await asyncio.sleep(4)
    assert limit.verdict == "Passed"
    assert len(bench.prometheus.asked) == 1
    # The control has come: the limit goes on as it was, the comparison begins.
    limit, ratio = bench.gates.judge(observe(*gates, status=watching()))
    assert (limit.verdict, ratio.reason) == ("Passed", Reason.NOT_ASKED_YET)
    await asyncio.sleep(31)
    assert len(bench.prometheus.asked[-1][1].queries) == 2
    # It has gone again: what it was asked for is asked no more.
    bench.gates.judge(observe(*gates, status=watching("0%")))
    asked = len(bench.prometheus.asked)
    await asyncio.sleep(61)
    assert all(len(q.queries) == 1 for _, q in bench.prometheus.asked[asked:])


async def test_without_copies_the_few_requests_of_the_control_are_compared_with_nothing(
    bench: Bench,
) -> None:
    seen = observe(RATIO, status=watching())
    spec = seen.deployment.spec
    strategy = spec.strategy.model_copy(update={"match_load": False})
    unmatched = replace(
        seen,
        deployment=replace(seen.deployment, spec=spec.model_copy(update={"strategy": strategy})),
    )
    gate = bench.gates.judge(unmatched)[0]
    assert (gate.verdict, gate.reason) == ("Inconclusive", Reason.COMPARISON_RESTS)
    assert "without matchLoad" in gate.message
    await asyncio.sleep(100)
    assert bench.prometheus.asked == []


async def test_the_control_of_the_watch_counts_from_its_own_first_requests(bench: Bench) -> None:
    """It was idle while everyone moved: its rate is too small at first, and the ratio to it too
    large."""
    gate = {**RATIO, "query": LOOKS_BACK, "failuresForFailed": 1}
    bench.prometheus.answers = [(0.2, 0.2)]
    for _ in range(10):
        bench.judge(gate)
        await asyncio.sleep(30)
    bench.judge(gate, status=watching("0%"))
    bench.prometheus.answers = [(0.2, 0.05), (0.2, 0.1), (0.2, 0.15), (0.2, 0.2)]
    for _ in range(4):
        assert bench.judge(gate, status=watching()).verdict == "Inconclusive"
        await asyncio.sleep(30)
    assert bench.judge(gate, status=watching()).verdict == "Passed"
