"""The screens as people see them: goldens at a fixed width, one for each state of a rollout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmrollouts.cli.failure import Forbidden
from tests.cli.conftest import (
    CANARY,
    STABLE,
    RecordedCluster,
    Terminal,
    at,
    canary_status,
    deployment,
    workers,
)

GOLDEN = Path(__file__).parent / "golden"
ROLLBACK = {
    "revision": CANARY,
    "to": STABLE,
    "reason": "CommandDone",
    "message": "a person said so",
    "requestedAt": at(3600.0),
    "decidedAt": at(3599.85),
    "programmedAt": at(3599.62),
    "lastCanaryRequestAt": at(3599.7),
    "rejects": True,
}
LAPSE = {"active": True, "cause": "NoReadyCanary", "since": at(20), "counts": {"NoReadyCanary": 1}}
CONDITION = {"observedGeneration": 4, "lastTransitionTime": at(30)}
FAULT = {
    **{key: value for key, value in ROLLBACK.items() if key != "requestedAt"},
    "reason": "GateFailed",
    "message": "gate latency: Failed, Slower: TTFT p95 is 2.1 times stable's",
    "firstSeenAt": at(3607.2),
    "detectedAt": at(3600.4),
    "lostRequests": 3,
    "savedRequests": 12,
    "cutStreams": 1,
}
GATE = {
    "name": "latency",
    "verdict": "Passed",
    "reason": "NoHarm",
    "since": at(700),
    "updatedAt": at(4),
    "message": "no harm seen; about 6m more to show it at this rate",
    "proof": "Collecting",
    "canaryRequests": 4812,
    "controlRequests": 19204,
    "metrics": [
        {
            "name": "ttft",
            "evidence": "0.42",
            "needed": "2400",
            "p50": "1.01",
            "p95": "1.03",
            "p99": "0.98",
            "ksLower": "0",
        },
        {"name": "errors", "evidence": "0.9", "needed": "2400"},
        {"name": "ttftP99", "message": "0.4% of requests are above 350ms, 1% may be"},
    ],
}
OWN_GATE = {
    "name": "prometheus/cost",
    "verdict": "Error",
    "reason": "NoSeries",
    "since": at(60),
    "updatedAt": at(9),
    "message": "the query answers no series",
    "proof": "NotNeeded",
}
POWER = {
    "requestsPerSecond": "4.2",
    "finds": "+25% slower within 5 min, 2x slower within 19 s, 1% errors within 9 min",
    "message": "With 4.2 compared canary requests a second this step finds +25% slower",
}
BLIND = {
    "requestsPerSecond": "0.01",
    "finds": "100% errors within 10 min",
    "blind": True,
    "message": "With 0.01 compared canary requests a second this step finds 100% errors",
}
STATES: dict[str, dict[str, Any]] = {
    "no-status": {},
    "starting": {
        "phase": "Starting",
        "stableRevision": None,
        "message": f"{STABLE}: 0 of 4 workers are ready; Unschedulable: no node has a free GPU",
        "conditions": [
            {**CONDITION, "type": "Ready", "status": "False", "reason": "WorkersStarting",
             "message": "0 of 4 workers are ready; no node has a free GPU"},
        ],
    },
    "serving": {
        "phase": "Serving",
        "message": f"{STABLE} serves with 4 workers",
        "conditions": [
            # The ordinary state of a deployment that rests: nothing that a person must see.
            {**CONDITION, "type": "InstantRollback", "status": "False",
             "reason": "NoWarmRevision", "message": "no replaced revision is warm"},
        ],
    },
    "canary": canary_status(),
    "gates": canary_status(gates=[GATE, OWN_GATE]),
    "gate-power": canary_status(gates=[{**GATE, "metrics": [], "power": POWER}]),
    "gate-blind": canary_status(gates=[{**GATE, "metrics": [], "power": BLIND}]),
    "gate-failed": {
        "phase": "Degraded", "message": f"{CANARY} was rolled back; {STABLE} serves",
        "lastRollback": FAULT,
        "gates": [{**GATE, "verdict": "Failed", "reason": "Slower", "proof": "Collecting",
                   "message": "TTFT p95 is 2.1 times stable's"}],
    },
    "watch": {
        "phase": "Serving", "stableRevision": CANARY, "message": f"{CANARY} serves",
        "warm": {"revision": STABLE, "until": at(-1800), "share": "1%", "shadowShare": "98%"},
        # What a step of the past could find is told by explain, not here.
        "gates": [{**GATE, "proof": "Proven", "power": POWER}],
    },
    "paused": canary_status(phase="Paused", paused=True, message="Paused at 0.5%"),
    "held": canary_status(phase="Held", hold="the share lapsed twice for NoReadyCanary",
                          message="A person is needed"),
    "lapsed": canary_status(share="0%", shadowShare="0%", measuredShare="0%",
                            measuredShadowShare="0%", lapse=LAPSE,
                            message="The share is 0 for now: no canary worker is ready"),
    "promoting": canary_status(
        phase="Promoting", share="100%", shadowShare="0%",
        promotion={"stage": "Shifting", "startedAt": at(3)},
        message=f"Users move to {CANARY}",
    ),
    "promoted-warm": {
        "phase": "Serving", "stableRevision": CANARY, "message": f"{CANARY} serves",
        "warm": {"revision": STABLE, "until": at(-1800)},
    },
    "rolled-back": {
        "phase": "Degraded", "message": f"{CANARY} was rolled back; {STABLE} serves",
        "lastRollback": ROLLBACK,
    },
    "no-instant-rollback": canary_status(conditions=[
        {**CONDITION, "type": "InstantRollback", "status": "False",
         "reason": "TooFewExtraReplicas",
         "message": "stable keeps 2 of 4 workers: 50% of the users can return at once"},
        {**CONDITION, "type": "Progressing", "status": "True", "reason": "WaitingForRequests",
         "message": "12 more requests"},
    ]),
}  # fmt: skip


def compare(name: str, text: str) -> None:
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), f"{golden.name} differs (GOLDEN=write)"


@pytest.mark.parametrize("state", STATES)
def test_status_screen(state: str, cluster: RecordedCluster, terminal: Terminal) -> None:
    status = {k: v for k, v in STATES[state].items() if v is not None}
    cluster.deployments = [deployment(**status)]
    if STATES[state].get("stableRevision", "") is None:
        del cluster.deployments[0]["status"]["stableRevision"]
    if state == "no-status":
        cluster.lists["events"] = cluster.lists["deployments"] = []
    if state == "starting":
        cluster.lists["deployments"] = [workers(STABLE, 0, 4)]
    if state in {"serving", "rolled-back"}:
        cluster.lists["deployments"] = [workers(STABLE, 4, 4)]
    if state == "promoted-warm":
        cluster.lists["deployments"] = [workers(STABLE, 4, 4), workers(CANARY, 4, 4)]
    if state == "lapsed":
        cluster.lists["deployments"] = [workers(STABLE, 4, 4), workers(CANARY, 0, 1)]
    assert terminal.type("status", "chat") == 0
    assert terminal.err == ""
    compare(f"status-{state}", terminal.out)


def test_the_screen_with_a_route_speaks_of_the_route(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    given = canary_status(lastRollback=ROLLBACK, measuredShare=None, measuredShadowShare=None)
    status = {name: value for name, value in given.items() if value is not None}
    cluster.deployments = [deployment(**status)]
    cluster.deployments[0]["spec"]["traffic"] = {
        "provider": "HTTPRoute",
        "httpRoute": {"name": "edge-chat"},
    }
    assert terminal.type("status", "chat") == 0
    assert "12m of 30m, requests are not counted" in terminal.out
    assert "confirmed by HTTPRoute edge-chat, read back, after" in terminal.out
    assert "every gateway" not in terminal.out


def test_every_screen_fits_into_the_terminal() -> None:
    for golden in GOLDEN.glob("status-*.txt"):
        assert all(len(line) <= 110 for line in golden.read_text(encoding="utf-8").splitlines())


def test_unreadable_status_is_said_to_be_so(cluster: RecordedCluster, terminal: Terminal) -> None:
    cluster.deployments = [deployment(phase="Serving", paused="perhaps")]
    assert terminal.type("status", "chat") == 0
    assert "Unreadable" in terminal.out
    assert "status.paused" in terminal.out


def test_waiting_command_and_unseen_spec_are_shown(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    metadata = cluster.deployments[0]["metadata"]
    metadata["annotations"] = {"llmrollouts.dev/command": "pause/77aa"}
    metadata["generation"] = 5
    terminal.type("status", "chat")
    assert "The command pause/77aa waits for the operator." in terminal.out
    assert "has not looked at the latest spec" in terminal.out


def test_list_shows_one_line_each(cluster: RecordedCluster, terminal: Terminal) -> None:
    cluster.deployments.append(deployment("search", "team-b", phase="Serving", message="Serves"))
    terminal.type("list", "-A")
    compare("list-all", terminal.out)
    terminal.type("list")
    assert "search" not in terminal.out
    assert terminal.type("list", "-n", "empty") == 0
    assert terminal.out == ""
    assert "no LLMDeployment in namespace empty" in terminal.err


def test_history_shows_revisions_and_events(cluster: RecordedCluster, terminal: Terminal) -> None:
    status = cluster.deployments[0]["status"]
    status["history"] = [
        {"at": at(90_000), "revision": STABLE, "event": "Promoted", "message": "it is stable"},
        {"at": at(725), "revision": CANARY, "event": "StepStarted", "message": "step 2 began"},
    ]
    cluster.lists["controllerrevisions"][0]["metadata"]["annotations"] = {
        "llmrollouts.dev/rejected": '{"at": "x", "reason": "WorkerDied", "message": "OOMKilled"}'
    }
    assert terminal.type("history", "chat") == 0
    compare("history", terminal.out)


def test_json_has_what_the_screen_has(terminal: Terminal) -> None:
    assert terminal.type("status", "chat", "-o", "json") == 0
    shown = terminal.json()
    assert shown["phase"] == "Progressing"
    assert [r["role"] for r in shown["revisions"]] == ["stable", "canary"]
    assert shown["revisions"][1]["measuredShare"] == "0.49%"
    assert [s["state"] for s in shown["steps"]] == ["done", "now", "next", "next", "next"]
    assert terminal.type("list", "-o", "json") == 0
    assert [i["name"] for i in terminal.json()["items"]] == ["chat"]
    assert terminal.type("history", "chat", "-o", "json") == 0
    assert [r["number"] for r in terminal.json()["revisions"]] == [2, 1]


def test_a_narrow_window_loses_no_column(
    cluster: RecordedCluster, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.cli.conftest.WIDTH", 60)
    terminal.type("list", "-A")
    heading, row = terminal.out.splitlines()
    assert heading.split() == (
        ["NAMESPACE", "NAME", "PHASE", "STABLE", "CANARY", "STEP", "SHARE", "WORKERS", "MESSAGE"]
    )
    assert row.split()[:3] == ["prod", "chat", "Progressing"]
    assert "Canary step 2 of 4 (0.5…" in row


@pytest.mark.parametrize("lease", [[], [{"metadata": {"namespace": "x"}, "spec": {}}]])
def test_a_status_that_nobody_renews_is_said_to_be_old(
    lease: list[dict[str, Any]], cluster: RecordedCluster, terminal: Terminal
) -> None:
    terminal.type("status", "chat")
    assert "No operator" not in terminal.out
    cluster.lists["leases"] = lease
    terminal.type("status", "chat")
    assert "No operator" in terminal.out
    told = " ".join(terminal.out.split())
    assert "the gateways have taken its shares to 0 by themselves" in told
    terminal.type("status", "chat", "-o", "json")
    assert terminal.json()["operatorSilence"].startswith("No operator")


def test_a_clock_that_is_ahead_by_half_a_minute_calls_no_operator_dead(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    lease = cluster.lists["leases"][0]["spec"]
    lease["renewTime"] = at(40)
    terminal.type("status", "chat", "-o", "json")
    assert not terminal.json().get("operatorSilence")
    lease["renewTime"] = at(80)
    terminal.type("status", "chat", "-o", "json")
    assert "does not run" in terminal.json()["operatorSilence"]


def test_who_may_not_read_leases_sees_the_status(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    cluster.failures["/leases"] = Forbidden("leases is forbidden")
    assert terminal.type("status", "chat") == 0
    assert "forbidden" not in terminal.out


def test_long_gate_messages_go_on_below_their_beginning_and_no_negative_distance_is_told(
    cluster: RecordedCluster, terminal: Terminal
) -> None:
    metric = {"name": "ttft", "evidence": "0.4", "needed": "2400", "ksLower": "-0.648"}
    gate = {**GATE, "message": "word " * 40, "metrics": [metric]}
    cluster.deployments = [deployment(**canary_status(gates=[gate]))]
    terminal.type("status", "chat")
    told = [line for line in terminal.out.splitlines() if "word" in line]
    assert len(told) > 1
    assert all(line.startswith("      word") for line in told)
    assert "apart" not in terminal.out
