"""The election while people and other programs edit the lease or the clocks are wrong."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from llmrollouts.kube.elector import HIGHEST_EPOCH, LeadershipLost
from llmrollouts.kube.port import LEASE
from tests.fakes.kube import FakeKube
from tests.kube.election import NAME, SPACE, TAKE_OVER, Link, Replica, in_virtual_time, lease_of


def touch(kube: FakeKube, mark: str) -> None:
    kube.edit(LEASE, SPACE, NAME, lambda m: m["metadata"].update(labels={"touched": mark}))


def test_edits_by_others_that_leave_the_holder_do_not_end_leadership() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        for number in range(20):
            await asyncio.sleep(1.1)
            touch(kube, str(number))
            assert one.leads
        await asyncio.sleep(2.0)
        lease = kube.peek(LEASE, SPACE, NAME)
        assert lease is not None
        assert lease["metadata"]["labels"] == {"touched": "19"}
        await one.stop()

    in_virtual_time(test)


def test_a_deleted_lease_keeps_its_leader_and_its_epoch() -> None:
    async def test() -> None:
        kube = FakeKube()
        zero = Replica("zero", Link(kube)).start()
        await asyncio.sleep(0.1)
        await zero.elector.release()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        two = Replica("two", Link(kube)).start()
        await asyncio.sleep(5.0)
        assert one.elector.epoch == 2
        kube.remove(LEASE, SPACE, NAME)
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert one.leads
            assert not two.leads
        assert lease_of(kube)["leaseTransitions"] == 2
        await one.stop()
        kube.remove(LEASE, SPACE, NAME)  # and now for good: the standby remembers the epoch
        await asyncio.sleep(TAKE_OVER)
        assert two.leads
        assert two.elector.epoch == 3
        await two.stop()

    in_virtual_time(test)


def test_a_lease_edited_to_a_year_keeps_nobody_out_for_long() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        await one.stop()
        kube.edit(LEASE, SPACE, NAME, lambda m: m["spec"].update(leaseDurationSeconds=31536000))
        two = Replica("two", Link(kube)).start()
        await asyncio.sleep(61.0)
        assert two.leads
        await two.stop()

    in_virtual_time(test)


def test_wrong_wall_clocks_change_nothing() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube), wall_off=timedelta(days=-4000)).start()
        await asyncio.sleep(0.1)
        two = Replica("two", Link(kube), wall_off=timedelta(days=4000)).start()
        for _ in range(600):
            await asyncio.sleep(0.1)
            assert one.leads
            assert not two.leads
        await asyncio.gather(one.stop(), two.stop())

    in_virtual_time(test)


def test_an_epoch_found_on_an_object_is_outranked_once_it_is_proved_that_no_other_leads() -> None:
    async def test() -> None:
        kube = FakeKube()
        one = Replica("one", Link(kube)).start()
        await asyncio.sleep(0.1)
        assert await one.elector.outrank(41) == 42
        assert one.elector.epoch == lease_of(kube)["leaseTransitions"] == 42
        assert await one.elector.outrank(7) == 42
        await asyncio.sleep(20.0)
        assert one.leads
        assert lease_of(kube)["leaseTransitions"] == 42
        kube.edit(LEASE, SPACE, NAME, lambda m: m["spec"].update(holderIdentity="later"))
        with pytest.raises(LeadershipLost, match="later"):
            await one.elector.outrank(50)
        assert not one.leads
        assert lease_of(kube)["leaseTransitions"] == 42
        with pytest.raises(LeadershipLost):
            await one.task
        with pytest.raises(ValueError, match="beyond"):
            await one.elector.outrank(HIGHEST_EPOCH)

    in_virtual_time(test)
