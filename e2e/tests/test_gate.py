"""The canary gate on real pods behind the real gateway: the short form of bench/gate_faults.py.

Latencies are injected (tens of milliseconds, far above what two busy cores add), and what is
judged is the operator's own verdict, never the speed of this machine.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from e2e.harness.faults import leader, misbehave, send
from e2e.harness.kube import Json, eventually
from e2e.harness.scenario import Chat, canary, shadow

if TYPE_CHECKING:
    from e2e.environment import Environment

SPEED = {"FAKE_ENGINE_TTFT_MS": "60", "FAKE_ENGINE_TPOT_MS": "6", "FAKE_ENGINE_JITTER": "0.1"}
PROMISE = 30.0  # seconds from the fault to the last request that starts on the canary


def gated(chat: Callable[..., Chat], **options: object) -> Chat:
    chosen: dict[str, object] = {"replicas": 1, "latency_gate": "Enforce", "env": dict(SPEED)}
    return chat(**{**chosen, **options})


def judged(given: Chat) -> Json:
    """What the latency gate says now."""
    return next((g for g in given.status.get("gates", []) if g["name"] == "latency"), {})


def watching(given: Chat, requests: int = 40) -> Json:
    """Wait until the gate compares: its thresholds are frozen and it has seen canary requests."""
    return eventually(
        "the gate compares",
        lambda: (gate := judged(given)).get("canaryRequests", 0) >= requests and gate,
        90,
    )


def _some_on_canary(given: Chat) -> str:
    given.serving("v1")
    given.applied("v2")
    new = given.canary()
    given.in_step(0)
    return new


# The hang comes last: its requests end only with the workers that hold them.
FAULTS: dict[str, dict[str, object]] = {
    "slow": {"slowdown": 2.0, "ttft_ms": 120.0},
    "errors": {"error_rate": 0.2},
    "empty": {"empty_rate": 1.0},
    "hang": {"hang": True},
}


@pytest.mark.timeout(600)
def test_a_revision_that_turns_bad_is_rolled_back_in_time(chat: Callable[..., Chat]) -> None:
    """One attempt after the other on one deployment; each starts with healthy workers."""
    given = gated(chat, steps=[canary("5%", "30m", 1)])
    began: dict[str, float] = {}
    until: list[float] = []
    with given.traffic(rate=40) as load:
        new = _some_on_canary(given)
        old = given.stable
        for fault, settings in FAULTS.items():
            if began:
                given.sees("held", lambda s: s.get("phase") == "Degraded")
                until.append(time.time())
                given.command("retry")
                given.canary()
                given.in_step(0)
            watching(given)
            began[fault] = time.time()
            for pod in given.pods(new):
                misbehave(pod, **settings)
            given.back_on(old, timeout=60)
            _recorded(given, fault)
        told = given.kube.llm("explain", given.name, "-n", given.namespace).stdout
        tally = load.stop()
    assert "requests" in told
    for (fault, start), end in zip(began.items(), [*until, time.time()], strict=True):
        last = tally.between(start, end).last_start(new)
        assert last is None or last - start < PROMISE, f"{fault}: {last}"


def _recorded(given: Chat, fault: str) -> None:
    rollback = given.status["lastRollback"]
    assert rollback["rejects"], fault
    if fault != "hang":  # its workers may be found dead first: then nothing was compared
        assert rollback["reason"] == "GateFailed", rollback
        assert rollback["firstSeenAt"] <= rollback["detectedAt"] <= rollback["decidedAt"]


@pytest.mark.timeout(300)
def test_a_slow_revision_is_stopped_in_the_shadow_before_any_user_meets_it(
    chat: Callable[..., Chat],
) -> None:
    given = gated(chat, steps=[shadow("50%", "30m", 1), canary("5%", "30m", 1)]).serving("v1")
    old = given.stable
    with given.traffic(rate=20) as load:
        load.wait_for(60)
        given.env = {**SPEED, "FAKE_ENGINE_SLOWDOWN": "2", "FAKE_ENGINE_TTFT_MS": "120"}
        given.applied("v2")
        new = given.canary()
        rejected = given.sees("rejected", lambda s: s.get("lastRollback"), 150)
        tally = load.stop()
    assert rejected["lastRollback"]["revision"] == new
    assert rejected["lastRollback"]["reason"] == "GateFailed"
    assert set(tally.by_revision) == {old}
    assert not tally.failures, tally.explain()


@pytest.mark.timeout(600)
def test_a_good_revision_is_proven_and_promoted_and_watched_afterwards(
    chat: Callable[..., Chat],
) -> None:
    given = gated(
        chat,
        replicas=2,
        # The last one is long enough for the load of both sides to be known and compared.
        steps=[shadow("30%", "10s"), canary("5%", "10s"), canary("50%", "25s")],
        objectives={"promotionMargin": "150%", "margin": "30%"},
        rollback_window="10m",
    )
    # A proof of the p99 takes over a thousand first tokens, so every answer is streamed.
    with given.traffic(rate=40, stream_every=1) as load:
        given.serving("v1")
        serving = time.time()
        old = given.stable
        given.applied("v2")
        new = given.canary()
        given.promoted(new, timeout=420)
        # The old revision keeps 1 % of the users as a control: what turns bad now goes back.
        eventually("the watch compares", lambda: judged(given).get("canaryRequests", 0) >= 40, 60)
        load.wait_for(100)
        began = time.time()
        for pod in given.pods(new):
            misbehave(pod, error_rate=0.5)
        given.back_on(old, timeout=60)
        load.wait_for(80)
        tally = load.stop()
    assert not tally.between(serving, began).failures, tally.explain()
    last = tally.between(began).last_start(new)
    assert last is not None
    assert last - began < PROMISE


@pytest.mark.timeout(300)
def test_both_revisions_slowed_together_freeze_and_are_not_rolled_back(
    chat: Callable[..., Chat],
) -> None:
    given = gated(chat, steps=[canary("5%", "30m", 1)], objectives={"ttftP99": "200ms"})
    with given.traffic(rate=30) as load:
        new = _some_on_canary(given)
        watching(given)
        began = time.time()
        for pod in given.pods():
            misbehave(pod, slowdown=4.0, ttft_ms=300.0)
        held = given.sees("frozen", lambda s: s.get("hold"), 120)
        time.sleep(10)
        tally = load.stop()
    assert not tally.between(began).failures, tally.explain()
    assert given.status["canaryRevision"] == new, "a good revision was rolled back"
    assert "stable" in held["hold"]


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_new_leader_goes_on_with_the_evidence_of_the_old_one(
    chat: Callable[..., Chat], environment: Environment
) -> None:
    given = gated(chat, steps=[canary("5%", "30m", 1)])
    with given.traffic(rate=30) as load:
        new = _some_on_canary(given)
        before = watching(given, requests=200)
        time.sleep(11)  # a checkpoint is written every ten seconds
        leading, _ = leader(environment.kube, environment.system)
        killed = time.time()
        send(leading, signal.SIGKILL)
        eventually(
            "another leader",
            lambda: (
                leader(environment.kube, environment.system)[0]["metadata"]["uid"]
                != leading["metadata"]["uid"]
            ),
            30,
        )
        after = eventually(
            "the gate goes on",
            lambda: (
                (gate := judged(given)).get("canaryRequests", 0) > before["canaryRequests"] and gate
            ),
            60,
        )
        tally = load.stop()
    assert after["canaryRequests"] >= before["canaryRequests"]
    assert given.status["canaryRevision"] == new
    assert not tally.between(killed).failures, tally.explain()
