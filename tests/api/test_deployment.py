"""Manifests in and out: a bad spec has a message, a bad status never raises."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.api.deployment import InvalidSpec, read_spec, read_status, write_status
from llmrollouts.api.reasons import Reason
from llmrollouts.api.status import (
    HISTORY_ENTRIES,
    MESSAGE_LENGTH,
    Condition,
    GateStatus,
    HistoryEntry,
    LLMDeploymentStatus,
    StepStatus,
)

AT = datetime(2026, 11, 22, 21, 15, 0, 123456, tzinfo=UTC)


def make_manifest(**spec: Any) -> dict[str, Any]:
    revision = {"model": {"uri": "file:///models/v1"}}
    return {"spec": {"replicas": 2, "revision": revision, **spec}}


def test_the_smallest_spec_has_the_default_plan() -> None:
    spec = read_spec(make_manifest())
    steps = spec.strategy.steps
    shares = [step.canary.share for step in steps if step.canary is not None]
    assert steps[0].shadow is not None
    assert (steps[0].shadow.share, steps[0].shadow.duration) == ("5%", "24h")
    assert shares == ["0.5%", "5%", "25%", "50%"]
    assert spec.revision_history_limit == 10


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"replicas": 0}, "spec.replicas: "),
        ({"replcas": 3}, "spec.replcas: "),
        ({"revision": None}, "spec.revision: "),
        ({"strategy": {"steps": [{}]}}, "spec.strategy.steps[0]: a step is either shadow or"),
        (
            {"strategy": {"steps": [{"canary": {"share": "0%", "duration": "1m"}}]}},
            "spec.strategy.steps[0].canary.share: the share of a step is above 0%",
        ),
    ],
)
def test_a_bad_spec_is_told_with_its_place_and_the_way_to_mend_it(
    spec: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        read_spec(make_manifest(**spec))
    assert told in str(refused.value)
    assert len(str(refused.value)) < 2_000


def test_a_rule_about_new_revisions_never_makes_a_spec_unreadable() -> None:
    """A spec that cannot be read keeps the operator from looking after what serves; such rules
    are checked before a revision is stored (resources/policy.py)."""
    engine = {
        "extraArgs": ["--trust-remote-code"],
        "env": [{"name": "LD_PRELOAD", "value": "x"}],
    }
    revision = {
        "model": {"uri": "http://elsewhere"},
        "engine": engine,
        "retrieval": {"config": {"text": "x" * 70_000}},
    }
    assert read_spec(make_manifest(revision=revision)).replicas == 2


def test_r26_a_spec_that_is_no_object_is_an_invalid_spec() -> None:
    nonsense: list[Any] = [None, [], "x", 3]
    for spec in nonsense:
        with pytest.raises(InvalidSpec):
            read_spec({"spec": spec})


@pytest.mark.parametrize(
    "status", ["x", [], {"phase": "Bogus"}, {"step": 3}, {"share": "lots"}, {"conditions": [1]}]
)
def test_a_status_edited_to_nonsense_is_an_empty_one_and_a_note(status: Any) -> None:
    reading = read_status({"status": status})
    assert reading.status == LLMDeploymentStatus()
    assert reading.problem
    assert reading.problem.startswith("status")


@pytest.mark.parametrize("time", ["2026-11-22T21:15:00", "9999-12-31T23:59:59Z", "soon", 1])
def test_a_time_that_cannot_be_reckoned_with_is_nonsense(time: Any) -> None:
    status = {"warm": {"revision": "bbbbbbbbbb", "until": time}}
    reading = read_status({"status": status})
    assert reading.status == LLMDeploymentStatus()
    assert reading.problem
    assert "status.warm.until" in reading.problem


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_FIELDS = [field.alias or "" for field in LLMDeploymentStatus.model_fields.values()]


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=6))
def test_no_status_makes_the_reader_raise(status: dict[str, Any]) -> None:
    read_status({"status": status})


def test_a_status_survives_being_written_and_read() -> None:
    status = LLMDeploymentStatus(
        phase="Progressing",
        stable_revision="bbbbbbbbbb",
        share="0.5%",
        step=StepStatus(index=1, kind="Canary", share="0.5%", started_at=AT, held_seconds=1.25),
        conditions=[
            Condition(
                type="Progressing",
                status="True",
                reason=Reason.STEP_RUNNING,
                message="m",
                last_transition_time=AT,
            )
        ],
    )
    written = write_status(make_manifest(), status)
    assert read_status(written).status == status
    assert read_status(written).problem is None
    assert written["status"]["conditions"][0]["lastTransitionTime"] == "2026-11-22T21:15:00.123456Z"


def test_the_step_is_printed_for_people_and_never_read_back() -> None:
    step = StepStatus(index=1, kind="Canary", share="0.5%", started_at=AT)
    written = write_status(make_manifest(), LLMDeploymentStatus(step=step))
    assert written["status"]["stepText"] == "2/5 Canary"
    assert write_status(make_manifest(), read_status(written).status) == written
    unreadable = write_status({"spec": {}}, LLMDeploymentStatus(step=step))
    assert unreadable["status"]["stepText"] == "2 Canary"


def test_a_field_of_a_newer_operator_is_ignored() -> None:
    assert read_status({"status": {"phase": "Serving", "brandNew": {"a": 1}}}).problem is None


def test_long_texts_and_lists_are_cut_so_that_a_status_is_always_writable() -> None:
    long = HistoryEntry(at=AT, revision="r" * 500, event="e", message="m" * 5_000)
    assert len(long.message) == MESSAGE_LENGTH
    # model_copy checks nothing, so writing cuts once more.
    status = LLMDeploymentStatus().model_copy(
        update={"message": "m" * 5_000, "history": [long] * 50}
    )
    written = write_status(make_manifest(), status)["status"]
    assert len(written["message"]) == MESSAGE_LENGTH
    assert len(written["history"]) == HISTORY_ENTRIES


def test_the_newest_of_a_long_history_are_kept() -> None:
    entries = [HistoryEntry(at=AT, revision="r", event=str(n), message="m") for n in range(50)]
    kept = LLMDeploymentStatus(history=entries).history
    assert [entry.event for entry in kept] == [str(n) for n in range(30, 50)]


@pytest.mark.parametrize(
    ("objectives", "told"),
    [
        ({"margin": "-5%"}, "a margin is a percentage that is not negative"),
        ({"margin": "NaN"}, "a margin is a percentage that is not negative"),
        ({"margin": "30%"}, "promotionMargin lies above margin"),
        ({"promotionMargin": "10%"}, "promotionMargin lies above margin"),
        ({"ttftP99": "0.09ms"}, "a latency lies between 0.1ms"),
        ({"ttftP99": "-1s"}, "is no duration"),
        ({"e2eP99": "3m"}, "a latency lies between 0.1ms"),
        ({"ttftP99": "31s", "e2eP99": "30s"}, "ttftP99 is at most e2eP99"),
        ({"errorRate": "0%"}, "above 0% and below 50%"),
        ({"errorRate": "half"}, "above 0% and below 50%"),
    ],
)
def test_objectives_that_the_api_server_refuses_are_refused_by_the_operator_too(
    objectives: dict[str, str], told: str
) -> None:
    """A policy file of `kubectl llm replay` has seen no API server."""
    manifest = make_manifest(objectives=objectives)
    with pytest.raises(InvalidSpec, match=told):
        read_spec(manifest)


def test_a_deadline_before_the_duration_is_refused() -> None:
    step = {"canary": {"share": "5%", "duration": "1h", "deadline": "30m"}}
    with pytest.raises(InvalidSpec, match="the deadline of a step is not before its duration"):
        read_spec(make_manifest(strategy={"steps": [step]}))


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ([], None),
        (["Passed"], "Passed"),
        (["Passed", "Inconclusive"], "Inconclusive: TooFewSamples"),
        (["Inconclusive", "Error", "Passed"], "Error: TooFewSamples"),
        (["Error", "Failed", "Frozen"], "Failed: TooFewSamples"),
    ],
)
def test_the_gravest_verdict_is_printed(verdicts: list[Any], told: str | None) -> None:
    gates = [
        GateStatus(
            name=f"gate-{number}",
            verdict=verdict,
            reason="TooFewSamples",
            message="needs 90 more",
            since=AT,
            updated_at=AT,
        )
        for number, verdict in enumerate(verdicts)
    ]
    status = LLMDeploymentStatus(gates=gates)
    written = write_status(make_manifest(), status)["status"]
    assert written.get("verdict") == told
