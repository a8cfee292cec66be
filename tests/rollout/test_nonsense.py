"""A status that was edited by hand to nonsense: nothing raises, and the safe side wins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrollouts.api.status import (
    LapseStatus,
    LLMDeploymentStatus,
    PromotionStatus,
    RetiringStatus,
    StepStatus,
    WarmStatus,
)
from llmrollouts.rollout.facts import Facts
from llmrollouts.rollout.plan import plan
from llmrollouts.rollout.recall import recall
from tests.rollout.scenarios import in_step, promoted, rolling, serving
from tests.rollout.sight import observe
from tests.rollout.specs import SETTINGS, START
from tests.rollout.world import World

NAMES = st.sampled_from(["<A>", "<B>", "<C>", "ghost", ""])
TIMES = st.one_of(
    st.sampled_from([datetime(2000, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)]),
    st.integers(-4000, 4000).map(lambda seconds: START + timedelta(seconds=seconds)),
)
SHARES = st.sampled_from(["0%", "0.5%", "5%", "50%", "100%"])
STATUSES = st.builds(
    LLMDeploymentStatus,
    epoch=st.sampled_from([None, 0, 1]),
    stableRevision=st.none() | NAMES,
    canaryRevision=st.none() | NAMES,
    overrideRevision=st.none() | NAMES,
    step=st.none()
    | st.builds(
        StepStatus,
        index=st.integers(-5, 50),
        kind=st.sampled_from(["Shadow", "Canary"]),
        share=SHARES,
        startedAt=TIMES,
        heldSeconds=st.floats(allow_nan=False, allow_infinity=False),
        runningSince=st.none() | TIMES,
    ),
    share=st.none() | SHARES,
    shadowShare=st.none() | SHARES,
    promotion=st.none()
    | st.builds(
        PromotionStatus,
        stage=st.sampled_from(["Growing", "Shifting", "Switching", "Clearing"]),
        startedAt=TIMES,
    ),
    warm=st.none() | st.builds(WarmStatus, revision=NAMES, until=TIMES),
    retiring=st.lists(st.builds(RetiringStatus, revision=NAMES, since=TIMES), max_size=4),
    paused=st.booleans(),
    hold=st.none() | st.text(max_size=2000),
    lapse=st.none()
    | st.builds(
        LapseStatus,
        active=st.booleans(),
        cause=st.text(max_size=300),
        since=TIMES,
        healthySince=st.none() | TIMES,
    ),
)


PHASES = st.sampled_from(["first", "serving", "canary", "promoted"])


@settings(max_examples=60)
@given(status=STATUSES, phase=PHASES)
def test_a_status_edited_to_nonsense_never_raises_and_heals(
    status: LLMDeploymentStatus, phase: str
) -> None:
    assert_heals(status, phase)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"lapse": {"active": True, "cause": "", "since": "2000-01-01T00:00:00Z"}},
        {"shadowShare": "100%"},
    ],
    ids=["a share in a lapse", "more copies than requests"],
)
@pytest.mark.parametrize("phase", ["canary", "promoted"])
def test_shares_that_contradict_the_rest_of_a_status_are_lowered(
    nonsense: dict[str, object], phase: str
) -> None:
    step = {"index": 0, "kind": "Canary", "share": "0.5%", "startedAt": "2000-01-01T00:00:00Z"}
    status = {"stableRevision": "<A>", "canaryRevision": "<B>", "step": step, "share": "0.5%"}
    assert_heals(LLMDeploymentStatus.model_validate(status | nonsense), phase)


@pytest.mark.thorough
@settings(max_examples=1000)
@given(status=STATUSES, phase=PHASES)
def test_no_nonsense_in_a_status_ever_raises(status: LLMDeploymentStatus, phase: str) -> None:
    assert_heals(status, phase)


def assert_heals(status: LLMDeploymentStatus, phase: str) -> None:
    begin: dict[str, Callable[[], World]] = {
        "first": World,
        "serving": serving,
        "canary": rolling,
        "promoted": promoted,
    }
    world = begin[phase]()
    text = status.model_dump_json()
    for name, letter in world.names.items():
        text = text.replace(letter, name)
    world.status = LLMDeploymentStatus.model_validate_json(text)
    world.run(seconds=20)
    sound = world.status
    assert sound.stable_revision in {*world.records, None}
    assert sound.canary_revision is None or sound.step is not None
    # What was believed once is believed again: nothing is left to mend.
    facts = Facts(observe(world), SETTINGS, world.now, world.epoch)
    assert recall(sound, facts).notices == ()


def test_held_seconds_that_are_no_number_count_as_none() -> None:
    world = in_step(2)
    step = world.status.step
    assert step is not None
    for nonsense in (float("nan"), float("inf"), -5.0):
        world.status = world.status.model_copy(
            update={"step": step.model_copy(update={"held_seconds": nonsense})}
        )
        made = plan(observe(world), SETTINGS, world.now, world.epoch)
        assert made.status.step is not None
        assert made.status.step.index == 2
