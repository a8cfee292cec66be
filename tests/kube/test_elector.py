"""The election over hours of virtual time: one leader, a bounded take-over, a loss that sticks."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrollouts.kube.elector import HIGHEST_EPOCH, LeadershipLost, make_identity, monotonic
from llmrollouts.kube.lease import LeaseTiming
from llmrollouts.kube.port import LEASE
from tests.fakes.kube import FakeKube
from tests.fakes.kube_faults import API_ERRORS, Fault
from tests.kube.election import NAME, SPACE, Link, Replica, in_virtual_time, lease_of, now

TAKE_OVER = 9.0  # seconds: what the design promises


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


def test_a_cancelled_elector_does_not_lead() -> None:
    async def test() -> None:
        one = Replica("one", Link(FakeKube())).start()
        await asyncio.sleep(0.1)
        assert one.leads
        await one.stop()
        assert not one.leads
        assert len(one.stopped) == 1

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


@settings(max_examples=60, deadline=None)
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
