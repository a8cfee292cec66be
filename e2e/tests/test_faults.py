"""Parts of the system die, freeze or vanish in mid-rollout, and no user pays for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from e2e.harness.faults import (
    GATEWAY_LABELS,
    blinded,
    frozen,
    leader,
    operator_pods,
    processes_of,
    send,
)
from e2e.harness.kube import eventually
from e2e.harness.scenario import Chat, canary, shadow

if TYPE_CHECKING:
    from e2e.environment import Environment

pytestmark = pytest.mark.alone

OPERATOR_ROLE = "llm-rollouts-operator"
LAPSE_LIMIT = 15.0  # seconds: the promise of the dead-man's switch
# In these tests a share lapses and comes back by itself: 60 s of health and the way there.
COMES_BACK = 150.0


def _canary_at(given: Chat, share: str) -> str:
    """v1 stable, v2 with this share of the users."""
    given.steps = [canary(share, "20m", 1)]
    given.serving("v1")
    given.applied("v2")
    new = given.canary()
    given.in_step(0)
    return new


@pytest.mark.timeout(420)
def test_both_operators_killed_the_proxies_take_the_share_back(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    small, half = chat(name="small", replicas=1), chat(name="half", replicas=1)
    new = {g.name: _canary_at(g, share) for g, share in ((small, "5%"), (half, "50%"))}
    with small.traffic(rate=40) as one, half.traffic(rate=40) as other:
        one.wait_for(200)
        other.wait_for(80)
        pods = operator_pods(environment.kube, environment.system)
        restarts = {given.name: given.restarts() for given in (small, half)}
        with environment.nothing_restarts():
            for pod in pods:
                send(pod, signal.SIGKILL)
            killed = time.time()
            time.sleep(LAPSE_LIMIT + 6)
            dead = time.time()
        for given, load in ((small, one), (half, other)):
            before, late = (
                load.so_far().between(0, killed),
                load.so_far().between(killed + LAPSE_LIMIT, dead),
            )
            assert before.of(new[given.name]), "the canary had no users to begin with"
            assert len(late) > 100
            assert not late.of(new[given.name]), "nobody decided, and users were on the canary"
        for given in (small, half):
            given.in_step(0, timeout=COMES_BACK)
            eventually(
                f"{given.name}: users on the canary again",
                given.has_users,
                60,
            )
        tallies = [one.stop(), other.stop()]
    for given, tally in zip((small, half), tallies, strict=True):
        assert not tally.failures, tally.explain()
        assert not tally.cut, tally.explain()
        assert given.restarts() == restarts[given.name]
        assert given.status["canaryRevision"] == new[given.name]


@pytest.mark.timeout(300)
def test_one_operator_killed_moves_no_share(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    given = chat(replicas=1)
    new = _canary_at(given, "50%")
    with given.traffic(rate=40) as load:
        load.wait_for(80)
        leading, _ = leader(environment.kube, environment.system)
        killed = time.time()
        send(leading, signal.SIGKILL)
        time.sleep(20)
        tally = load.stop()
    assert not tally.failures, tally.explain()
    for second in range(0, 18, 3):
        stretch = tally.between(killed + second, killed + second + 3)
        assert 0.25 < stretch.share(new) < 0.75, (
            f"{second} s after the kill the canary had {stretch.share(new):.0%} of the users"
        )


@pytest.mark.timeout(300)
def test_a_frozen_leader_writes_nothing_when_it_thaws(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    """R14."""
    given = chat(replicas=1)
    new = _canary_at(given, "50%")
    old = given.stable
    leading, _ = leader(environment.kube, environment.system)
    with given.traffic(rate=40) as load:
        load.wait_for(60)
        with frozen(leading):
            other = eventually(
                "another leader",
                lambda: (
                    (pod := leader(environment.kube, environment.system)[0])["metadata"]["uid"]
                    != leading["metadata"]["uid"]
                    and pod
                ),
                30,
            )
            given.sees(
                "the new leader at work",
                lambda s: s.get("epoch", 0) > 0 and s.get("canaryRevision") == new,
            )
            given.command("rollback")
            given.back_on(old)
            epoch = given.status["epoch"]
        thawed = time.time()
        time.sleep(10)
        tally = load.stop()
    assert tally.between(thawed).share(old) == 1, "the thawed leader raised a share"
    assert given.status["epoch"] == epoch
    assert other["metadata"]["name"] != leading["metadata"]["name"]
    assert not tally.failures, tally.explain()


@pytest.mark.timeout(420)
def test_the_api_server_away_for_thirty_seconds(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    given = chat(replicas=1)
    new = _canary_at(given, "50%")
    with given.traffic(rate=40) as load:
        load.wait_for(60)
        gone = time.time()
        with environment.api_server_away():
            time.sleep(30)
        back = time.time()
        given.in_step(0, timeout=COMES_BACK)
        eventually(
            "users on the canary again",
            given.has_users,
            60,
        )
        tally = load.stop()
    assert not tally.failures, tally.explain()
    assert not tally.cut, tally.explain()
    silent = tally.between(gone + 25, back)
    assert silent.share(new) == 0, "nobody decided for 25 s, and users were still on the canary"


@pytest.mark.timeout(420)
def test_a_wedged_loop_in_a_living_process_takes_the_share_back(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    """The leader renews its Lease and serves the gateways, and no round of its can be finished."""
    given = chat(replicas=1)
    new = _canary_at(given, "50%")
    with given.traffic(rate=40) as load:
        load.wait_for(60)
        leading, _ = leader(environment.kube, environment.system)
        with blinded(environment.kube, OPERATOR_ROLE, "pods"):
            wedged = time.time()
            time.sleep(LAPSE_LIMIT + 8)
            late = load.so_far().between(wedged + LAPSE_LIMIT)
            assert len(late) > 100
            assert not late.of(new), "no round was finished for 15 s, and users were on the canary"
            still, _ = leader(environment.kube, environment.system)
            assert still["metadata"]["uid"] == leading["metadata"]["uid"], (
                "the process did not live"
            )
        given.in_step(0, timeout=COMES_BACK)
        eventually("users on the canary again", given.has_users, 60)
        tally = load.stop()
    assert not tally.failures, tally.explain()
    assert not tally.cut, tally.explain()


@pytest.mark.timeout(420)
def test_containers_killed_in_each_step_fail_no_request(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    """A stable worker and a gateway die in each step, the canary's only worker in one of them: a
    second death of a canary container would end the rollout."""
    steps = [shadow("20%", "20m", 1), canary("5%", "20m", 1), canary("50%", "20m", 1)]
    given = chat(replicas=2, steps=steps, rollback_window="10m").serving("v1")
    old = given.stable
    kube, system = environment.kube, environment.system
    kills: list[float] = []
    with given.traffic(rate=40) as load:
        given.applied("v2")
        new = given.canary()
        for index in range(len(steps) + 1):
            if index < len(steps):
                given.in_step(index, timeout=COMES_BACK)
            else:
                given.promoted(new)
            load.wait_for(40)
            side = new if index == len(steps) else old
            victims = sorted(given.pods(side), key=lambda pod: str(pod["metadata"]["name"]))
            send(victims[index % len(victims)], signal.SIGKILL, "vllm")
            gateways = kube.pods(system, GATEWAY_LABELS)
            kills.append(time.time())
            send(gateways[index % len(gateways)], signal.SIGKILL, "envoy")
            load.wait_for(200)
            if index == 1:
                # A request is tried once more, so it outlives one dead worker and not a dead canary
                # and then a dead stable one: stable is whole again before the canary dies.
                eventually("all workers ready", lambda: _all_ready(given), 120)
                send(given.pods(new)[0], signal.SIGKILL, "vllm")
                load.wait_for(200)
            given.sees("workers back", lambda s: s.get("phase") != "Failed")
            if index < len(steps):
                eventually("all workers ready", lambda: _all_ready(given), 120)
                given.in_step(index, timeout=COMES_BACK)
                given.command("skip")
        tally = load.stop()
    # No gateway that lives answers with an error: a request that had no token yet is answered by
    # another worker. A killed gateway takes its open connections along, and refuses new ones until
    # the cluster has seen it; that is all that may fail (an OpenAI client tries those again).
    unexplained = [
        o
        for o in tally.failures
        if o.status not in (None, 200) or not any(k <= o.ended <= k + 20 for k in kills)
    ]
    assert not unexplained, f"{unexplained[:5]}\n{tally.explain()}"
    assert len(tally.cut) <= 12 * len(kills), tally.explain()
    assert given.status["stableRevision"] == new


def _all_ready(given: Chat) -> bool:
    return all(
        any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])
        for pod in given.pods()
    )


@pytest.mark.timeout(300)
def test_a_worker_that_dies_fails_no_request(chat: Callable[..., Chat]) -> None:
    given = chat(replicas=2)
    new = _canary_at(given, "30%")
    with given.traffic(rate=40) as load:
        load.wait_for(80)
        # The canary's only worker: its users are answered by stable.
        send(given.pods(new)[0], signal.SIGKILL, "vllm")
        load.wait_for(200)
        send(given.pods(given.stable)[0], signal.SIGKILL, "vllm")
        load.wait_for(200)
        canary_pod = given.pods(new)[0]["metadata"]["name"]
        given.kube.kubectl("delete", "pod", canary_pod, "-n", given.namespace, "--wait=false")
        load.wait_for(200)
        tally = load.stop()
    # A stream that had begun on a killed worker is cut: counted, never hidden.
    assert not tally.failures, tally.explain()
    assert len(tally.cut) <= 12, tally.explain()


@pytest.mark.timeout(240)
def test_a_gateway_restart_serves_only_once_it_has_its_routes(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    given = chat(replicas=1)
    _canary_at(given, "10%")
    gateway = environment.kube.pods(environment.system, GATEWAY_LABELS)[0]
    before = gateway["status"]["containerStatuses"][0]["restartCount"]
    send(gateway, signal.SIGKILL, "envoy")
    path = f"/api/v1/namespaces/{environment.system}/pods/{gateway['metadata']['name']}"

    def ready_again() -> bool:
        status = (environment.kube.get(path) or {})["status"]["containerStatuses"][0]
        return bool(status["restartCount"] > before and status["ready"])

    eventually("the gateway ready again", ready_again, 60)
    with given.traffic(rate=40, requests=400) as load:
        tally = load.wait(60)
    assert not tally.failures, tally.explain()


@pytest.mark.timeout(300)
def test_a_gateway_without_control_plane_is_never_ready(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    given = chat(replicas=1)
    _canary_at(given, "10%")
    kube, system = environment.kube, environment.system
    gateways = kube.pods(system, GATEWAY_LABELS)
    path = f"/api/v1/namespaces/{system}/pods/{gateways[0]['metadata']['name']}"
    pods = operator_pods(kube, system)
    stopped = [pid for pod in pods for pid in processes_of(pod)]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        send(gateways[0], signal.SIGKILL, "envoy")
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline:
            status = (kube.get(path) or {})["status"]["containerStatuses"][0]
            assert not (
                status["ready"]
                and status["restartCount"]
                > gateways[0]["status"]["containerStatuses"][0]["restartCount"]
            )
            time.sleep(1)
        with given.traffic(rate=20, requests=60) as load:
            tally = load.wait(60)
        assert not tally.failures, tally.explain()
    finally:
        for pid in stopped:
            if processes_exist(pid):
                os.kill(pid, signal.SIGCONT)
    eventually(
        "the gateway ready",
        lambda: (kube.get(path) or {})["status"]["containerStatuses"][0]["ready"],
        90,
    )


def processes_exist(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
