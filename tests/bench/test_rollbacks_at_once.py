"""Rollbacks at once in small: none is lost, no request fails, nobody stays on the canary."""

from __future__ import annotations

import asyncio

import pytest

from bench.rollbacks_at_once import Fleet, is_back, measure_at_once, measure_single, start_fleet

pytestmark = [pytest.mark.apiserver, pytest.mark.envoy, pytest.mark.timeout(300)]
COUNT = 10


async def see_nobody_on_a_canary(fleet: Fleet) -> None:
    for user in fleet.users:
        user.seen.clear()
    await asyncio.sleep(2.0)
    for user, canary in fleet.pairs():
        assert user.seen, "no traffic proves nothing"
        assert user.last_start(canary) is None


async def test_r31_rollbacks_at_once_and_in_the_middle_of_other_changes_are_all_carried_out() -> (
    None
):
    async with start_fleet(COUNT, rate=10.0) as fleet:
        plain = await measure_at_once(fleet, 0, after_a_change=False)
        assert (plain["lost"], plain["failed_requests"]) == (0, 0), plain
        await see_nobody_on_a_canary(fleet)

        await fleet.retry()
        changed = await measure_at_once(fleet, 0, after_a_change=True)
        assert (changed["lost"], changed["failed_requests"]) == (0, 0), changed
        await see_nobody_on_a_canary(fleet)

        await fleet.retry()
        await measure_single(fleet, 0)
        found = await fleet.resources()
        assert is_back(found[0])
        others = {item["status"].get("share") for item in found[1:]}
        assert others == {"50%"}, "one rollback takes nobody else's canary away"
