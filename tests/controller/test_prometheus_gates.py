"""When gates from Prometheus are asked, and what they say in a round (time by looptime)."""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import LLMDeploymentStatus, PromotionStatus, StepStatus
from llmrollouts.metrics.prometheus_address import AllowedAddresses
from llmrollouts.metrics.prometheus_answer import Unanswered
from tests.controller.prometheus_bench import (
    KEY,
    LOOKS_BACK,
    STAGE,
    START,
    Bench,
    in_next_step,
    make_gate,
    make_status,
    observe,
    open_bench,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]

WORD = "s3cr3t-word"

bench = pytest_asyncio.fixture(open_bench)

RATIO = make_gate(limit=None, compare={"maxRatio": "1.2"})
NAN = Unanswered(Reason.NOT_A_NUMBER, "the answer is NaN")


async def test_it_is_inconclusive_until_it_was_asked_in_this_step(bench: Bench) -> None:
    gate = bench.judge()
    assert (gate.name, gate.verdict) == ("prometheus/cost", "Inconclusive")
    assert gate.reason is Reason.NOT_ASKED_YET
    assert gate.stage == STAGE
    await asyncio.sleep(31)
    assert bench.judge().verdict == "Passed"


async def test_it_is_asked_every_interval_for_the_canary(bench: Bench) -> None:
    bench.judge(make_gate(interval="20s", timeout="5s", maxAge="1m"))
    await asyncio.sleep(101)
    times = bench.prometheus.times()
    assert len(times) == 5
    assert {after - before for before, after in itertools.pairwise(times)} == {20}
    question = bench.prometheus.asked[0][1]
    assert question.queries == ('cost{r="bbbb"}',)
    assert (question.seconds, question.max_age) == (5.0, 60.0)


async def test_bad_answers_in_a_row_fail_and_tell_since_when(bench: Bench) -> None:
    bench.prometheus.answers = [0.2, 0.31, 0.32]
    bench.judge()
    await asyncio.sleep(61)
    gate = bench.judge()
    assert gate.verdict == "Inconclusive"
    assert "0.31; allowed is at most 0.25" in gate.message
    await asyncio.sleep(30)
    gate = bench.judge()
    assert gate.verdict == "Failed"
    assert gate.reason is Reason.LIMIT_BROKEN
    assert gate.first_seen_at is not None
    assert gate.detected_at is not None
    assert round((gate.detected_at - gate.first_seen_at).total_seconds()) == 30


async def test_nan_neither_passes_nor_fails(bench: Bench) -> None:
    bench.prometheus.answers = [NAN]
    bench.judge()
    seen = set()
    for _ in range(30):
        await asyncio.sleep(10)
        seen.add(bench.judge().verdict)
    assert seen == {"Inconclusive", "Error"}


async def test_a_comparison_asks_for_both_revisions(bench: Bench) -> None:
    bench.prometheus.answers = [(0.31, 0.2)]
    gate = make_gate(limit=None, compare={"maxRatio": "1.2"}, failuresForFailed=1)
    bench.judge(gate)
    await asyncio.sleep(31)
    assert bench.prometheus.asked[0][1].queries == ('cost{r="bbbb"}', 'cost{r="aaaa"}')
    found = bench.judge(gate)
    assert found.verdict == "Failed"
    assert "ratio of 1.55" in found.message


@pytest.mark.parametrize("stable", [0.0, -1.0])
async def test_nothing_is_said_of_a_ratio_to_zero(bench: Bench, stable: float) -> None:
    bench.prometheus.answers = [(0.31, stable)]
    gate = make_gate(limit=None, compare={"maxRatio": "1.2"}, maxErrors=1)
    bench.judge(gate)
    await asyncio.sleep(31)
    found = bench.judge(gate)
    assert (found.verdict, found.reason) == ("Error", Reason.NOT_COMPARABLE)


async def test_an_old_answer_is_an_error(bench: Bench) -> None:
    bench.judge()
    await asyncio.sleep(31)
    assert bench.judge().verdict == "Passed"
    bench.prometheus.seconds = 10_000.0
    await asyncio.sleep(80)
    assert bench.judge().verdict == "Passed"
    await asyncio.sleep(20)
    gate = bench.judge()
    assert (gate.verdict, gate.reason) == ("Error", Reason.STALE_ANSWER)


async def test_a_new_step_begins_without_a_verdict(bench: Bench) -> None:
    bench.judge()
    await asyncio.sleep(31)
    status = in_next_step(START + timedelta(minutes=30))
    gate = bench.judge(status=status)
    assert gate.verdict == "Inconclusive"
    assert gate.stage == "bbbb/1/1-Canary-50000"
    await asyncio.sleep(31)
    assert bench.judge(status=status).verdict == "Passed"


async def test_nothing_is_asked_while_nothing_flows_and_afterwards_anew(bench: Bench) -> None:
    bench.judge()
    await asyncio.sleep(31)
    lapsed = make_status(share="0%", shadow_share="0%")
    assert bench.judge(status=lapsed).verdict == "Inconclusive"
    asked = len(bench.prometheus.asked)
    await asyncio.sleep(300)
    assert len(bench.prometheus.asked) == asked
    assert bench.judge().verdict == "Inconclusive"
    await asyncio.sleep(31)
    assert bench.judge().verdict == "Passed"


async def test_its_last_word_stays_while_a_promotion_takes_the_share_away(bench: Bench) -> None:
    bench.judge()
    await asyncio.sleep(31)
    clearing = PromotionStatus(stage="Clearing", started_at=START)
    assert bench.judge(status=make_status(share="0%", promotion=clearing)).verdict == "Passed"
    growing = PromotionStatus(stage="Growing", started_at=START)
    assert bench.judge(status=make_status(share="0%", promotion=growing)).verdict == "Inconclusive"


async def test_a_shadow_step_is_judged_like_any_other(bench: Bench) -> None:
    status = make_status(share="0%", shadow_share="5%")
    bench.judge(status=status)
    await asyncio.sleep(31)
    assert bench.judge(status=status).verdict == "Passed"


def _everybody(index: int) -> LLMDeploymentStatus:
    step = StepStatus(index=index, kind="Canary", share="100%", started_at=START)
    return make_status(step=step, share="100%")


async def test_a_comparison_that_let_everyone_over_stands_while_nobody_is_left_to_compare_with(
    bench: Bench,
) -> None:
    for _ in range(10):
        found = bench.judge(RATIO, status=_everybody(1))
        assert (found.verdict, found.reason) == ("Passed", Reason.COMPARISON_RESTS)
        await asyncio.sleep(10)
    assert bench.prometheus.asked == []


async def test_a_comparison_passes_nothing_in_a_first_step_that_takes_everyone(
    bench: Bench,
) -> None:
    found = bench.judge(RATIO, status=_everybody(0))
    assert (found.verdict, found.reason) == ("Inconclusive", Reason.COMPARISON_RESTS)
    assert "let the first step take fewer, or use a limit" in found.message


async def test_a_limit_is_asked_while_everyone_is_on_the_canary(bench: Bench) -> None:
    bench.judge(status=_everybody(1))
    await asyncio.sleep(31)
    assert bench.judge(status=_everybody(1)).reason is Reason.WITHIN_LIMIT


async def test_without_a_rollout_nothing_is_asked_or_said(bench: Bench) -> None:
    bench.judge()
    ended = make_status(canary_revision=None, step=None)
    assert bench.gates.judge(observe(make_gate(), status=ended)) == ()
    await asyncio.sleep(100)
    assert bench.prometheus.asked == []


async def test_a_bad_answer_counts_once_requests_flow_for_as_long_as_the_query_looks_back(
    bench: Bench,
) -> None:
    """At first the rate of a worker that has just begun is only a part of the truth."""
    gate = make_gate(query=LOOKS_BACK, limit={"min": "0.9"})
    bench.prometheus.answers = [0.25, 0.5, 0.75, 1.0]
    bench.judge(gate)
    for _ in range(3):
        await asyncio.sleep(30)
        found = bench.judge(gate)
        assert (found.verdict, found.reason) == ("Inconclusive", Reason.LIMIT_BROKEN)
        assert "the query looks back 2m, and requests flow for less than that" in found.message
    await asyncio.sleep(30)
    assert bench.judge(gate).verdict == "Passed"
    bench.prometheus.answers = [0.5]
    await asyncio.sleep(61)
    assert bench.judge(gate).verdict == "Failed"


async def test_in_a_later_step_a_bad_answer_counts_at_once_and_after_a_lapse_it_does_not(
    bench: Bench,
) -> None:
    gate = make_gate(query=LOOKS_BACK, limit={"min": "0.9"}, failuresForFailed=1)
    for _ in range(4):
        bench.judge(gate)
        await asyncio.sleep(30)
    bench.prometheus.answers = [0.5]
    status = in_next_step(START + timedelta(minutes=2))
    bench.judge(gate, status=status)
    await asyncio.sleep(31)
    assert bench.judge(gate, status=status).verdict == "Failed"
    bench.judge(gate, status=make_status(share="0%"))
    bench.judge(gate, status=status)
    await asyncio.sleep(31)
    assert bench.judge(gate, status=status).verdict == "Inconclusive"


async def test_who_does_not_lead_asks_nothing_and_passes_nothing(bench: Bench) -> None:
    bench.leads = False
    assert bench.judge().verdict == "Inconclusive"
    await asyncio.sleep(100)
    assert bench.prometheus.asked == []


async def test_a_deleted_deployment_is_asked_about_no_more(bench: Bench) -> None:
    bench.judge()
    bench.gates.forget(KEY)
    bench.gates.forget(KEY)
    await asyncio.sleep(100)
    assert bench.prometheus.asked == []
    seen = observe(make_gate())
    leaving = replace(seen, deployment=replace(seen.deployment, deleting=True))
    assert bench.gates.judge(leaving) == ()


async def test_an_edit_holds_from_the_next_step_on(bench: Bench) -> None:
    bench.prometheus.answers = [0.31]
    edited = make_gate(limit={"max": "9"})
    bench.judge()
    await asyncio.sleep(31)
    assert bench.judge(edited).verdict == "Inconclusive"
    await asyncio.sleep(31)
    assert bench.judge(edited).verdict == "Failed"


async def test_a_new_gate_begins_at_once_and_a_removed_one_stays_for_the_step(
    bench: Bench,
) -> None:
    bench.judge()
    await asyncio.sleep(31)
    found = bench.gates.judge(observe(make_gate(name="other")))
    assert [(gate.name, gate.verdict) for gate in found] == [
        ("prometheus/cost", "Passed"),
        ("prometheus/other", "Inconclusive"),
    ]
    await asyncio.sleep(31)
    found = bench.gates.judge(observe(make_gate(name="other")))
    assert {gate.verdict for gate in found} == {"Passed"}


async def test_a_gate_in_error_takes_an_edit_at_once(bench: Bench) -> None:
    bench.prometheus.answers = [
        Unanswered(Reason.QUERY_INVALID, "parse error", lasting=True),
        0.2,
    ]
    bench.judge()
    await asyncio.sleep(31)
    assert bench.judge().verdict == "Error"
    mended = make_gate(query="mended")
    assert bench.judge(mended).verdict == "Inconclusive"
    await asyncio.sleep(31)
    assert bench.judge(mended).verdict == "Passed"
    assert bench.prometheus.asked[-1][1].queries == ("mended",)


async def test_a_gate_in_error_can_be_taken_out(bench: Bench) -> None:
    bench.prometheus.answers = [Unanswered(Reason.QUERY_INVALID, "parse error", lasting=True)]
    bench.judge()
    await asyncio.sleep(31)
    assert bench.gates.judge(observe()) == ()


async def test_an_address_that_is_not_allowed_is_an_error_at_once(bench: Bench) -> None:
    gate = bench.judge(make_gate(address="https://prom.example.evil"))
    assert (gate.verdict, gate.reason) == ("Error", Reason.ADDRESS_NOT_ALLOWED)
    assert "operator.allowedPrometheus" in gate.message
    await asyncio.sleep(100)
    assert bench.prometheus.asked == []


async def test_an_empty_list_says_that_the_feature_is_off(bench: Bench) -> None:
    bench.allowed = AllowedAddresses()
    bench.gates = bench.make()
    gate = bench.judge()
    assert gate.verdict == "Error"
    assert "allows no Prometheus at all" in gate.message


@pytest.mark.parametrize(
    "change",
    [
        {"limit": None},
        {"limit": {}},
        {"limit": {"max": "1", "min": "0"}},
        {"compare": {"maxRatio": "1.2"}},
        {"limit": None, "compare": {"maxRatio": "1.2"}, "query": "no_placeholder"},
        {"address": "https://prom.example/a/../b"},
    ],
)
async def test_a_gate_older_than_the_rules_is_an_error_at_once(
    bench: Bench, change: dict[str, Any]
) -> None:
    gate = bench.judge(make_gate(**change))
    assert (gate.verdict, gate.reason) == ("Error", Reason.GATE_INVALID)


async def test_a_comparison_without_a_stable_revision_is_an_error(bench: Bench) -> None:
    gate = make_gate(limit=None, compare={"maxRatio": "1.2"})
    assert bench.judge(gate, status=make_status(stable_revision=None)).verdict == "Error"


async def test_a_bug_is_an_error_without_its_text(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.prometheus.answers = [RuntimeError(WORD)]
    gate = make_gate(maxErrors=1)
    bench.judge(gate)
    with caplog.at_level(logging.DEBUG):
        await asyncio.sleep(31)
    found = bench.judge(gate)
    assert (found.verdict, found.reason) == ("Error", Reason.GATE_BROKEN)
    record = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert WORD not in f"{record.getMessage()}{record.__dict__}{found.message}"
    assert "ask" in record.__dict__["trace"]


async def test_many_gates_of_one_deployment_are_asked_two_at_once(bench: Bench) -> None:
    bench.prometheus.seconds = 5.0
    gates = tuple(make_gate(name=f"g{number}") for number in range(8))
    bench.gates.judge(observe(*gates))
    await asyncio.sleep(60)
    assert bench.prometheus.most_together == 2
    verdicts = {gate.verdict for gate in bench.gates.judge(observe(*gates))}
    assert verdicts == {"Passed"}
