"""The idle benchmark in small: what is asserted is correctness, not speed."""

from __future__ import annotations

import pytest

from bench.idle import STRATEGY, measure_idle, wait_routes
from bench.local_world import create_deployments, start_world, wait_phase

pytestmark = [pytest.mark.apiserver, pytest.mark.envoy, pytest.mark.timeout(300)]
COUNT = 20


async def test_idle_deployments_cause_no_round_and_no_write_and_come_back_with_a_new_operator() -> (
    None
):
    async with start_world(serve=False) as world:
        async with world.operator("operator-0") as operator:
            await operator.wait_ready()
            async with world.proxies(operator) as proxies:
                await create_deployments(world.api, range(COUNT), STRATEGY)
                await wait_phase(world.api, "Serving", COUNT, 120)
                await wait_routes(proxies, COUNT, 60)
                await operator.settle(4.0, 120)
                idle = await measure_idle(world, operator, 6.0)
        assert world.stand_in.pods == COUNT
        assert (idle["rounds"], idle["status_writes"]) == (0, 0), idle
        # The Lease and the list of the gateways; whatever is asked once for each deployment would
        # show here. A request may fall on either side of the two readings.
        seen = idle["requests_by_the_audit_log"]
        assert set(seen) <= {"update leases", "list endpointslices"}, seen
        assert abs(sum(seen.values()) - idle["requests_by_the_operator"]) <= 2, idle

        async with world.operator("operator-1") as operator, world.proxies(operator) as proxies:
            await wait_routes(proxies, COUNT, 90)
            await operator.settle(4.0, 120)
        await wait_phase(world.api, "Serving", COUNT, 30)
