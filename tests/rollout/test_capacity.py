"""How many canary workers a step needs: the canary is compared, so it may not be busier."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmrollouts.api.share import WHOLE, Share
from llmrollouts.rollout.capacity import canary_workers, matched_workers, workers_for
from tests.rollout.specs import make_spec

REPLICAS = st.integers(1, 200)
UP_TO_A_HALF = st.integers(1, WHOLE // 2).map(Share)


@given(share=UP_TO_A_HALF, replicas=REPLICAS)
def test_up_to_a_half_no_canary_worker_is_busier_than_a_stable_one(
    share: Share, replicas: int
) -> None:
    canary = matched_workers(share, replicas)
    assert canary <= replicas
    assert share.ppm * replicas <= (WHOLE - share.ppm) * canary
    # One fewer would be busier: no worker is started that the comparison does not need.
    assert canary == 1 or share.ppm * replicas > (WHOLE - share.ppm) * (canary - 1)


def test_four_workers_need_two_beside_them_at_a_quarter_and_four_at_a_half() -> None:
    strategy = make_spec(replicas=4).strategy
    shares = ("0.5%", "5%", "20%", "25%", "50%", "75%")
    wanted = [canary_workers(Share.parse(share), 4, strategy) for share in shares]
    assert wanted == [1, 1, 1, 2, 4, 4]


@given(share=st.integers(1, WHOLE).map(Share), replicas=REPLICAS, extra=st.integers(0, 200))
def test_little_room_costs_the_match_and_never_the_users(
    share: Share, replicas: int, extra: int
) -> None:
    strategy = make_spec(replicas=replicas, max_extra_replicas=extra).strategy
    canary = canary_workers(share, replicas, strategy)
    assert canary >= workers_for(share, replicas)
    assert canary <= max(workers_for(share, replicas), extra)


def test_without_match_load_as_many_as_carry_the_share() -> None:
    strategy = make_spec(replicas=4).strategy.model_copy(update={"match_load": False})
    assert canary_workers(Share.parse("50%"), 4, strategy) == 2
