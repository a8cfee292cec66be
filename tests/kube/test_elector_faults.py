"""The election while the API fails, hangs, refuses, and processes freeze: never two at once."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrollouts.kube.elector import LeadershipLost
from tests.fakes.kube import FakeKube
from tests.fakes.kube_faults import API_ERRORS, Fault
from tests.kube.election import Link, Replica, in_virtual_time, now


@pytest.mark.parametrize("fault", API_ERRORS)
@pytest.mark.parametrize("call", range(1, 9))
def test_any_api_error_at_any_call_still_ends_with_one_leader(fault: Fault, call: int) -> None:
    async def test() -> None:
        kube = FakeKube()
        kube.faults.at_call(call, fault)
        one, two = Replica("one", Link(kube)).start(), Replica("two", Link(kube)).start()
        for _ in range(200):
            await asyncio.sleep(0.1)
            assert not (one.leads and two.leads)
        assert one.leads or two.leads
        assert len(one.started + two.started) == 1
        await asyncio.gather(one.stop(), two.stop())

    in_virtual_time(test)


def test_no_rights_on_the_lease_is_said_once_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        kube = FakeKube()
        kube.faults.fail(Fault.FORBIDDEN, times=30)
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(25.0)
        assert not one.leads
        await asyncio.sleep(10.0)
        assert one.leads
        await one.stop()

    in_virtual_time(test)
    refused = [r for r in caplog.records if r.message == "Failed to reach the lease"]
    assert len(refused) == 1
    assert "403" in vars(refused[0])["error"]


def test_without_an_api_server_a_standby_no_longer_calls_the_lease_fresh() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        two = Replica("two", Link(kube)).start()
        await asyncio.sleep(3.0)
        assert two.elector.lease_is_fresh()
        assert two.elector.holder == "one"
        one.link.mode = two.link.mode = "hang"
        await asyncio.sleep(6.1)
        assert not two.elector.lease_is_fresh()
        assert not two.leads
        await asyncio.gather(one.stop(), two.stop())

    in_virtual_time(test)


MODES = st.sampled_from(["ok", "ok", "ok", "down", "hang", "deaf"])
MISFORTUNES = st.lists(
    st.tuples(
        st.floats(0.05, 6.0),  # after so many seconds
        st.integers(0, 2),  # this replica
        MODES,
        st.floats(0.0, 2.5),  # delay of its requests
        st.sampled_from([0.0, 0.0, 0.0, 3.0, 5.0, 30.0]),  # frozen so long
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(MISFORTUNES, st.lists(st.floats(0.95, 1.05), min_size=3, max_size=3))
def test_whatever_happens_two_never_lead_at_once_and_epochs_only_grow(
    misfortunes: list[tuple[float, int, str, float, float]], rates: list[float]
) -> None:
    """Networks fail, hang and lose answers, processes freeze, clocks differ by 10 %; a replica
    that lost the leadership is started again, as its pod would be."""

    async def test() -> None:
        kube = FakeKube()
        numbers = itertools.count()
        replicas = [
            Replica(f"{i}-{next(numbers)}", Link(kube), rate=rate).start()
            for i, rate in enumerate(rates)
        ]
        old: list[Replica] = []

        def revive() -> None:
            for i, replica in enumerate(replicas):
                if replica.task.done():
                    assert isinstance(replica.task.exception(), LeadershipLost)
                    old.append(replica)
                    name = f"{i}-{next(numbers)}"
                    replicas[i] = Replica(name, replica.link, rate=replica.rate).start()

        async def go_on(seconds: float) -> None:
            until = now() + seconds
            while now() < until:
                await asyncio.sleep(0.17)
                assert sum(r.leads for r in [*replicas, *old]) <= 1
                revive()

        for seconds, which, mode, delay, frozen in misfortunes:
            await go_on(seconds)
            replicas[which].link.mode = mode
            replicas[which].link.delay = delay
            # While a process is frozen the others go on. Here no time passes for them, which is
            # the harder case for a leader, but would be an untrue one for a standby.
            if replicas[which].leads:
                replicas[which].jump += frozen
        for replica in replicas:
            replica.link.mode, replica.link.delay = "ok", 0.0
        await go_on(20.0)
        assert sum(r.leads for r in replicas) == 1
        started = sorted(itertools.chain.from_iterable(r.started for r in [*replicas, *old]))
        epochs = [epoch for _, epoch in started]
        assert epochs == sorted(set(epochs))
        await asyncio.gather(*(replica.stop() for replica in replicas))

    in_virtual_time(test)
