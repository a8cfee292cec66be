"""From a fault of the canary to the last user request that starts on it, run after run.

For each fault a deployment of fake engines, all at once, each with its own users: one stable
worker, one canary worker that gets about 4 requests a second and no copies (the worst case: with
matched load it would get more). Each run waits until the gate compares, lets the fault begin, and
takes the five times from the status and the last canary request from the users' own record. The
fault "none" is a good revision: it must not be rolled back in as long a time as the others take.
``--after SECONDS``: the fault begins so long after the comparison, in the same step (a regression
that begins late). Kept in a file of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import datetime

from bench.results_file import keep, summarise
from e2e.environment import Environment, prepare
from e2e.harness.faults import misbehave, send
from e2e.harness.kube import Json, eventually
from e2e.harness.scenario import Chat, canary

SPEED = {"FAKE_ENGINE_TTFT_MS": "80", "FAKE_ENGINE_TPOT_MS": "8", "FAKE_ENGINE_JITTER": "0.1"}
FAULTS: dict[str, dict[str, object]] = {
    "twice as slow": {"slowdown": 2.0, "ttft_ms": 160.0},
    "20 % errors": {"error_rate": 0.2},
    "hang": {"hang": True},
    "killed": {},
    "empty answers": {"empty_rate": 1.0},
    "none": {},
}
HARD = ("hang", "killed", "20 % errors", "empty answers")
WATCHED = 60.0  # seconds that a good revision is watched


@dataclass(frozen=True)
class Run:
    """Seconds from the fault; None: it did not happen. seen: first seen in the data. lost: user
    requests that failed or were cut from the fault on."""

    last_request: float | None
    reason: str
    seen: float | None = None
    detected: float | None = None
    decided: float | None = None
    programmed: float | None = None
    lost: int = 0


def _since(began: float, text: str | None) -> float | None:
    return None if not text else round(datetime.fromisoformat(text).timestamp() - began, 3)


def _compares(given: Chat) -> bool:
    gates: list[Json] = given.status.get("gates", [])
    return any(g["name"] == "latency" and g.get("canaryRequests", 0) >= 30 for g in gates)


def _run(given: Chat, fault: str, rate: float, after: float) -> Run:
    with given.traffic(rate=rate) as load:
        new = given.canary()
        given.in_step(0)
        eventually("the gate compares", lambda: _compares(given), 120)
        time.sleep(after + random.uniform(0, 2))
        if given.status.get("canaryRevision") != new:
            return Run(last_request=None, reason="rolled back before the fault")
        began = time.time()
        for pod in given.pods(new):
            if fault == "killed":
                send(pod, signal.SIGKILL, "vllm")
            elif FAULTS[fault]:
                misbehave(pod, **FAULTS[fault])
        if fault == "none":
            time.sleep(WATCHED)
        else:
            # By a verdict, or by a lapse: a worker that hangs or says nothing may be found not
            # ready first, and then nobody is left whose requests a verdict could rest on.
            given.sees(
                "users back", lambda s: s.get("share") == "0%" or not s.get("canaryRevision"), 90
            )
            time.sleep(2)
        load.wait_for(int(rate * 3))
        tally = load.stop()
    last = tally.between(began).last_start(new)
    lost = len(tally.between(began - 30).failures) + len(tally.between(began - 30).cut)
    rollback = given.status.get("lastRollback") or {}
    if rollback.get("decidedAt") and _since(began, rollback["decidedAt"]) < 0:  # type: ignore[operator]  # a time was given
        rollback = {}  # of an earlier run
    return Run(
        last_request=None if last is None else round(last - began, 3),
        reason=str(rollback.get("reason") or (given.status.get("lapse") or {}).get("cause", "")),
        seen=_since(began, rollback.get("firstSeenAt")),
        detected=_since(began, rollback.get("detectedAt")),
        decided=_since(began, rollback.get("decidedAt")),
        programmed=_since(began, rollback.get("programmedAt")),
        lost=lost,
    )


def measure(
    environment: Environment, namespace: str, fault: str, runs: int, rate: float, after: float
) -> Json:
    """``after``: seconds from the first comparison to the fault."""
    name = fault.replace(" ", "-").replace("%", "percent").replace("20-", "")
    given = Chat(
        environment.kube,
        environment.gateway,
        environment.images["fake-engine"],
        namespace,
        name=name,
        replicas=1,
        rollback_window="30m",
        match_load=False,
        latency_gate="Enforce",
        env=dict(SPEED),
        steps=[canary("5%", f"{after + 1800:.0f}s", 1)],
    ).serving("v1")
    measured: list[Run] = []
    given.applied("v2")
    for run in range(runs):
        if run:
            if given.status.get("canaryRevision"):
                given.command("rollback")
            given.sees("held", lambda s: s.get("phase") == "Degraded", 90)
            given.command("retry")
        measured.append(_run(given, fault, rate, after))
        print(f"{fault}: run {run + 1} of {runs}: {measured[-1]}", flush=True)
    given.deleted()
    last = [r.last_request for r in measured if r.last_request is not None]
    return {
        "last_canary_request": summarise(last),
        "rolled_back": sum(r.reason == "GateFailed" for r in measured),
        "runs": [asdict(r) for r in measured],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="for each fault")
    parser.add_argument("--rate", type=float, default=80.0, help="requests/s of each deployment")
    parser.add_argument("--after", type=float, default=0.0, help="seconds into the step")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--at-once", type=int, default=2, help="faults measured at the same time")
    parser.add_argument("--namespace", default="bench-gate")
    chosen = parser.parse_args()
    environment = prepare(["operator", "gateway", "worker", "fake-engine"])
    environment.kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": chosen.namespace}}
    )
    load_before = os.getloadavg()[0]
    with ThreadPoolExecutor(chosen.at_once) as pool:
        futures = {
            fault: pool.submit(
                measure,
                environment,
                chosen.namespace,
                fault,
                chosen.runs,
                chosen.rate,
                chosen.after,
            )
            for fault in chosen.faults
        }
        wait(futures.values())
    results = {f: future.result() for f, future in futures.items() if not future.exception()}
    environment.kube.kubectl("delete", "namespace", chosen.namespace, "--wait=false")
    machine_load = [round(load_before, 1), round(os.getloadavg()[0], 1)]
    measured = {
        "rate": chosen.rate,
        "after": chosen.after,
        "machine_load": machine_load,
        "faults": results,
    }
    print(keep("gate_faults_late" if chosen.after else "gate_faults", measured))
    for fault, future in futures.items():
        if future.exception():
            raise SystemExit(f"{fault} was not measured") from future.exception()


if __name__ == "__main__":
    main()
