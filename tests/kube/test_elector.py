"""The election over hours of virtual time: one leader, a bounded take-over, a loss that sticks."""

from __future__ import annotations

import asyncio

import pytest

from llmrollouts.kube.elector import LeadershipLost, make_identity, monotonic
from llmrollouts.kube.lease import LeaseTiming
from llmrollouts.kube.port import LEASE
from tests.fakes.kube import FakeKube
from tests.kube.election import (
    NAME,
    SPACE,
    TAKE_OVER,
    Link,
    Replica,
    in_virtual_time,
    lease_of,
    now,
)


def test_the_first_creates_the_lease_and_leads_with_epoch_one() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        assert one.leads
        assert [epoch for _, epoch in one.started] == [1]
        spec = lease_of(kube)
        assert spec["holderIdentity"] == "one"
        assert spec["leaseDurationSeconds"] == 6
        assert spec["leaseTransitions"] == one.elector.epoch == 1
        assert spec["renewTime"].endswith("Z")
        await one.stop()

    in_virtual_time(test)


def test_one_of_two_leads_on_and_on_and_asks_less_than_once_a_second() -> None:
    async def test() -> None:
        kube = FakeKube()
        one, two = Replica("one", Link(kube)).start(), Replica("two", Link(kube)).start()
        await asyncio.sleep(0.1)
        assert one.leads != two.leads
        leader = one if one.leads else two
        requests = leader.link.requests
        for _ in range(1800):
            await asyncio.sleep(1.0)
            assert leader.leads
            assert leader.elector.remaining() > 2.0
            assert one.elector.lease_is_fresh()
            assert two.elector.lease_is_fresh()
        assert (leader.link.requests - requests) / 1800 < 0.7
        assert len(one.started + two.started) == 1
        await asyncio.gather(one.stop(), two.stop())

    in_virtual_time(test)


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.7, 1.1, 1.4])
def test_a_killed_leader_is_replaced_within_nine_seconds_with_a_higher_epoch(
    offset: float,
) -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        two = Replica("two", Link(kube)).start()
        await asyncio.sleep(10 + offset)
        await one.stop()
        killed = now()
        await asyncio.sleep(4.0)
        assert not two.leads
        assert two.elector.lease_is_fresh()
        await asyncio.sleep(TAKE_OVER - 4.0)
        assert two.leads
        assert two.started[0][0] - killed < TAKE_OVER
        assert two.elector.epoch == 2
        await two.stop()

    in_virtual_time(test)


def test_a_released_lease_is_taken_at_once() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        two = Replica("two", Link(kube)).start()
        await asyncio.sleep(5.0)
        await one.elector.release()
        assert not one.leads
        assert lease_of(kube)["holderIdentity"] == ""
        await one.task  # no error: this is an ordinary stop
        assert [reason for _, reason in one.stopped] == ["released"]
        await asyncio.sleep(1.1)
        assert two.leads
        assert two.elector.epoch == 2
        await two.stop()

    in_virtual_time(test)


def test_release_stops_leading_before_the_server_answers_and_never_raises() -> None:
    async def test() -> None:
        for mode in ("hang", "down", "deaf"):
            kube = FakeKube()
            one = Replica("one", Link(kube)).start()
            await asyncio.sleep(0.1)
            one.link.mode = mode
            released = asyncio.create_task(one.elector.release())
            await asyncio.sleep(0)
            assert not one.leads
            started = now()
            await released
            assert now() - started <= 4.0
            await one.task

    in_virtual_time(test)


def test_release_by_a_standby_ends_its_campaign_and_leaves_the_lease_alone() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        two = Replica("two", Link(kube)).start()
        await asyncio.sleep(2.0)
        await two.elector.release()
        await two.task
        assert not two.started
        assert not two.stopped
        assert one.leads
        assert lease_of(kube)["holderIdentity"] == "one"
        await one.stop()

    in_virtual_time(test)


@pytest.mark.parametrize("mode", ["down", "hang", "deaf"])
def test_a_leader_that_cannot_renew_stops_at_the_deadline_and_says_so(mode: str) -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(10.1)
        one.link.mode = mode
        cut = now()
        with pytest.raises(LeadershipLost, match="not renewed within 4 s"):
            await one.task
        assert 2.0 < now() - cut <= 4.0
        assert [reason for _, reason in one.stopped] == ["the lease was not renewed within 4 s"]
        assert not one.leads

    in_virtual_time(test)


def test_a_short_outage_or_slow_answers_do_not_end_leadership() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(1.6)
        for mode, seconds in (
            ("down", 1.8),
            ("hang", 0.4),
            ("ok", 3.0),
            ("deaf", 0.3),
            ("ok", 9.0),
        ):
            one.link.mode = mode
            await asyncio.sleep(seconds)
            assert one.leads
        one.link.delay = 1.8
        for _ in range(100):
            await asyncio.sleep(1.0)
            assert one.leads
        assert one.elector.epoch == 1
        await one.stop()

    in_virtual_time(test)


def test_a_frozen_and_thawed_leader_knows_at_once_and_a_late_renewal_does_not_revive_it() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube, delay=0.5)).start()
        await asyncio.sleep(6.0)
        requests = one.link.requests
        while one.link.requests == requests:
            await asyncio.sleep(0.05)  # in the middle of a renewal that will succeed
        assert one.leads
        one.jump += 7.0  # SIGSTOP … SIGCONT
        assert not one.leads
        assert one.elector.remaining() == 0
        with pytest.raises(LeadershipLost):
            await one.task
        assert not one.leads
        assert len(one.stopped) == 1

    in_virtual_time(test)


def test_a_thawed_leader_finds_its_successor_and_leaves_the_lease_alone() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        two = Replica("two", Link(kube)).start()
        await asyncio.sleep(5.0)
        one.link.mode = "hang"
        await asyncio.sleep(10.0)
        assert two.leads
        one.link.mode = "ok"
        await one.elector.release()
        assert lease_of(kube)["holderIdentity"] == "two"
        assert two.leads
        await asyncio.gather(one.task, return_exceptions=True)
        await two.stop()

    in_virtual_time(test)


def test_a_leader_whose_lease_was_taken_stops_at_the_next_renewal() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(2.0)
        kube.edit(LEASE, SPACE, NAME, lambda m: m["spec"].update(holderIdentity="thief"))
        with pytest.raises(LeadershipLost, match="thief took the lease"):
            await one.task
        assert now() < 1005.0

    in_virtual_time(test)


def test_a_cancelled_elector_does_not_lead() -> None:
    async def test() -> None:
        one = Replica("one", Link(FakeKube())).start()
        await asyncio.sleep(0.1)
        assert one.leads
        await one.stop()
        assert not one.leads
        assert len(one.stopped) == 1

    in_virtual_time(test)


def test_each_process_has_an_identity_of_its_own_that_names_its_pod() -> None:
    one, two = make_identity("operator-0", "u1"), make_identity("operator-0", "u1")
    assert one != two
    assert one.startswith("operator-0_u1_")


def test_the_clock_goes_on_while_nobody_looks() -> None:
    first = monotonic()
    assert monotonic() >= first


def test_timing_that_cannot_work_is_refused() -> None:
    for wrong in ({"deadline": 6.0}, {"renew_every": 4.0}, {"renew_every": 0.0}):
        with pytest.raises(ValueError, match="renew_every"):
            LeaseTiming(**wrong)
