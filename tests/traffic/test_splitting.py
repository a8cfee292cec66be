"""One pass over a route and its Services: safe at every point, whatever fails meanwhile."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrollouts.api.reasons import Reason
from llmrollouts.api.share import ALL, NONE, WHOLE, Share
from llmrollouts.resources.children import Owner
from llmrollouts.rollout.intent import RouteRule
from llmrollouts.traffic.route_port import Moved, Unreachable
from llmrollouts.traffic.splitting import Goal, Reading, Splitter
from tests.fakes.routes import FakeRoutes, make_route

OWNER = Owner("prod", "chat", "uid-1")
RULE = RouteRule("chat")
A, B = "aaaaaaaaaa", "bbbbbbbbbb"
AT_REST = Goal(RULE, A, None, NONE)


def canary(share: Share, default: str = A) -> Goal:
    return Goal(RULE, default, B, share)


def make_store(stable: int = WHOLE, share: int = 0) -> FakeRoutes:
    store = FakeRoutes(make_route(stable, share))
    store.pods = {A: 2, B: 1}
    return store


async def split(store: FakeRoutes, goal: Goal, *, may_raise: bool = True) -> Reading:
    return await Splitter(store, OWNER, goal, may_raise=may_raise).run()


async def test_at_rest_both_services_lead_to_stable_and_no_weight_is_touched() -> None:
    store = make_store(stable=90, share=10)
    store.set_weights(100, 0)
    reading = await split(store, AT_REST)
    assert store.services == {"stable": A, "canary": A}
    assert store.weights() == (100, 0)
    assert reading.share == NONE
    assert reading.services_done


async def test_a_share_becomes_the_weights_once_a_worker_is_behind_the_service() -> None:
    store = make_store()
    await split(store, AT_REST)
    store.pods[B] = 0
    waiting = await split(store, canary(Share(5000)))
    assert (waiting.canary_reached, store.weights()) == (False, (WHOLE, 0))
    store.pods[B] = 1
    reading = await split(store, canary(Share(5000)))
    assert store.weights() == (995_000, 5_000)
    assert reading.share == Share(5000)
    assert store.services == {"stable": A, "canary": B}


async def test_r01_a_rollback_ends_at_exactly_zero_and_is_read_back() -> None:
    store = make_store()
    await split(store, canary(Share(250_000)))
    assert store.exposure(B) == 0.25
    reading = await split(store, AT_REST)
    assert store.weights() == (WHOLE, 0)
    assert reading.share == NONE
    assert store.services["canary"] == A
    assert store.exposure(B) == 0


async def test_a_rollback_lowers_the_weight_before_anything_else_of_the_canary() -> None:
    store = make_store()
    await split(store, canary(Share(250_000)))
    store.writes.clear()
    await split(store, AT_REST)
    assert store.writes == [f"weights ({WHOLE}, 0)", f"canary -> {A}"]


async def test_a_rollback_succeeds_by_the_service_when_the_weights_may_not_be_written() -> None:
    store = make_store()
    await split(store, canary(Share(250_000)))
    store.refuses_patches = True
    reading = await split(store, AT_REST)
    assert store.exposure(B) == 0
    assert reading.problem is not None
    assert reading.problem.reason is Reason.ROUTE_REFUSED
    assert reading.share == Share(250_000)


async def test_a_rollback_succeeds_by_the_service_when_the_route_is_gone() -> None:
    store = make_store()
    await split(store, canary(Share(250_000)))
    store.route = None
    reading = await split(store, AT_REST)
    assert store.services == {"stable": A, "canary": A}
    assert (reading.share, reading.services_done) == (None, True)


async def test_r20_weights_from_git_in_the_middle_of_a_step_are_put_right() -> None:
    store = make_store()
    await split(store, canary(Share(5_000)))
    store.set_weights(50, 50)
    await split(store, canary(Share(5_000)))
    assert store.weights() == (995_000, 5_000)
    store.set_weights(100, 0)
    await split(store, canary(Share(5_000)))
    assert store.weights() == (995_000, 5_000)


async def test_weights_that_git_holds_never_show_a_canary_that_has_no_share() -> None:
    store = make_store()
    await split(store, AT_REST)
    store.set_weights(0, 100)
    assert store.exposure(B) == 0
    seen: list[float] = []
    store.after_write = lambda: seen.append(store.exposure(B))
    await split(store, canary(Share(5_000)))
    assert max(seen) <= 0.005


async def test_no_canary_is_shown_while_a_weight_above_the_share_cannot_be_lowered() -> None:
    store = make_store(stable=0, share=100)
    await split(store, AT_REST)
    store.refuses_patches = True
    await split(store, canary(Share(5_000)))
    assert store.exposure(B) == 0
    store.refuses_patches = False
    await split(store, canary(Share(5_000)))
    assert store.exposure(B) == 0.005


async def test_no_canary_is_shown_while_the_route_cannot_be_read() -> None:
    store = make_store()
    await split(store, canary(Share(5_000)))
    store.route = None
    await split(store, canary(Share(5_000)))
    assert store.services["canary"] == A


async def test_two_weights_of_zero_which_answer_everybody_with_errors_are_put_right() -> None:
    store = make_store(stable=0, share=0)
    await split(store, AT_REST)
    assert store.weights() == (WHOLE, 0)
    store.set_weights(0, 0)
    await split(store, canary(Share(5_000)), may_raise=False)
    assert store.weights() == (WHOLE, 0)


async def test_a_promotion_shows_every_user_one_of_the_two_revisions_throughout() -> None:
    store = make_store()
    seen: list[float] = []
    store.after_write = lambda: seen.append(store.exposure(A) + store.exposure(B))
    await split(store, AT_REST)
    seen.clear()
    stages = [canary(ALL), canary(ALL, default=B), Goal(RULE, B, None, NONE)]
    shares: list[float] = []
    for stage in stages:
        await split(store, stage)
        shares.append(store.exposure(B))
    assert shares == [1.0, 1.0, 1.0]
    assert set(seen) == {1.0}
    assert store.services == {"stable": B, "canary": B}
    assert store.weights() == (WHOLE, 0)


async def test_without_a_fresh_decision_nothing_rises_and_what_was_granted_stays() -> None:
    store = make_store()
    await split(store, canary(Share(5_000)))
    await split(store, canary(Share(500_000)), may_raise=False)
    assert store.weights() == (995_000, 5_000)


async def test_a_service_of_another_owner_stops_the_share_and_is_left_alone() -> None:
    store = make_store()
    store.taken = True
    reading = await split(store, canary(Share(5_000)))
    assert store.weights() == (WHOLE, 0)
    assert store.writes == []
    assert reading.problem is not None
    assert reading.problem.reason is Reason.SERVICE_TAKEN
    assert not reading.services_done


async def test_the_services_are_not_done_while_a_pod_of_another_revision_is_behind_them() -> None:
    store = make_store()
    await split(store, canary(Share(5_000)))
    store.follows = False
    assert not (await split(store, AT_REST)).services_done
    store.behind = {"stable": A, "canary": A}
    assert (await split(store, AT_REST)).services_done


async def test_before_anything_serves_the_route_is_read_and_nothing_is_written() -> None:
    store = make_store()
    await split(store, Goal(RULE, None, None, NONE))
    assert store.writes == []
    store.route = None
    reading = await split(store, Goal(RULE, None, None, NONE))
    assert reading.problem is not None


GOALS = [
    AT_REST,
    canary(Share(5_000)),
    canary(Share(500_000)),
    canary(ALL),
    canary(ALL, default=B),
    Goal(RULE, B, None, NONE),
]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200)
async def test_no_write_ever_shows_more_of_the_canary_than_before_or_than_is_wanted(
    seed: int,
) -> None:
    """Goals in any order, weights edited by others, endpoints that lag, and failures anywhere."""
    chance = random.Random(seed)
    store = make_store(chance.randint(0, 100), chance.randint(0, 100))
    goal, shown = AT_REST, 0.0

    def note(what: str) -> None:
        nonlocal shown
        shown = store.exposure(B)

    def meddle(what: str) -> None:
        draw = chance.random()
        if draw < 0.05:
            raise Unreachable("no answer")
        if draw < 0.1:
            raise Moved("somebody wrote first")
        note(what)

    def check() -> None:
        wanted = 1.0 if goal.default == B else goal.share.fraction
        assert store.exposure(B) <= max(shown, wanted) + 1e-9

    store.before, store.after_write = meddle, check
    for _ in range(30):
        goal = chance.choice(GOALS)
        if chance.random() < 0.2:
            store.set_weights(chance.randint(0, 3), chance.randint(0, 3))
        if chance.random() < 0.2:
            store.pods[B] = chance.randint(0, 1)
        try:
            await split(store, goal, may_raise=chance.random() < 0.8)
        except (Unreachable, Moved):
            continue
    store.before = note
    store.pods = {A: 2, B: 1}
    for _ in range(2):
        reading = await split(store, goal)
    assert reading.share == goal.share
    assert reading.services_done


@pytest.mark.parametrize("left", range(8))
async def test_a_pass_cut_short_anywhere_is_completed_by_the_next(left: int) -> None:
    store = make_store()
    await split(store, canary(Share(500_000)))
    calls = 0

    def cut(what: str) -> None:
        nonlocal calls
        calls += 1
        if calls > left:
            raise Unreachable("the process died")

    store.before = cut
    with contextlib.suppress(Unreachable):
        await split(store, AT_REST)
    store.before = lambda what: None
    await split(store, AT_REST)
    assert (store.weights(), store.exposure(B)) == ((WHOLE, 0), 0)
