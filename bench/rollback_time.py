"""From the command to the last user request that starts on the canary, run after run.

One deployment of fake engines, steady users. Each run brings the revision into the phase, rolls
back by the plain annotation (no command line tool in between), waits for the users to be back, and
retries the revision. In the phase "promoting" the command comes at a random moment of the
promotion; in the phase "promoted" the warm revision takes everyone back.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from dataclasses import dataclass

from bench.results_file import keep, summarise
from e2e.environment import Environment, prepare
from e2e.harness.scenario import Chat, canary, shadow

STEPS = [shadow("20%", "30m"), canary("0.5%", "30m", 1), canary("5%", "30m", 1)]
STEPS += [canary("50%", "30m", 1)]
# Phase -> how often the running step is skipped to get there.
PHASES = {"shadow": 0, "0.5%": 1, "5%": 2, "50%": 3, "promoting": 4, "promoted": 4}


@dataclass(frozen=True)
class Run:
    """seconds: from before the annotation to the start of the last canary request; None: none
    started after it. seen: user requests that the canary had answered before."""

    seconds: float | None
    seen: int


def _given(environment: Environment, namespace: str) -> Chat:
    environment.kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    )
    return Chat(
        environment.kube,
        environment.gateway,
        environment.images["fake-engine"],
        namespace,
        name="rollback",
        replicas=1,
        rollback_window="30m",
        steps=STEPS,
    )


def _reach(given: Chat, phase: str) -> str:
    """Bring the rollout into the phase; the canary's name."""
    new = given.canary()
    given.in_step(0)
    for index in range(PHASES[phase]):
        given.command("skip")
        if index + 1 < len(STEPS):
            given.in_step(index + 1)
    if phase == "promoted":
        given.promoted(new)
    if phase == "promoting":
        given.sees("a promotion", lambda s: s.get("promotion") or s.get("warm"))
        time.sleep(random.uniform(0, 1.5))
    return new


def measure(given: Chat, phase: str, runs: int, rate: float) -> list[Run]:
    given.serving("v1")
    old = given.stable
    measured: list[Run] = []
    given.applied("v2")
    for run in range(runs):
        if run:
            given.command("retry")
        with given.traffic(rate=rate) as load:
            new = _reach(given, phase)
            if phase != "promoting":
                load.wait_for(int(rate * 2))
            asked = time.time()
            given.annotate(f"rollback/{run}")
            given.back_on(old)
            load.wait_for(int(rate))
            tally = load.stop()
        if tally.failures:
            raise SystemExit(tally.explain())
        last = tally.between(asked).last_start(new)
        seconds = None if last is None else last - asked
        measured.append(Run(seconds, len(tally.between(0, asked).of(new))))
        shown = "none after the command" if seconds is None else f"{seconds:.3f} s"
        print(f"{phase}: run {run + 1} of {runs}: {shown}", flush=True)
        given.sees("held", lambda s: s.get("phase") == "Degraded", 60)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="for each phase")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--phases", nargs="*", default=list(PHASES), choices=list(PHASES))
    parser.add_argument("--namespace", default="bench-rollback")
    chosen = parser.parse_args()
    environment = prepare(["operator", "gateway", "worker", "fake-engine"])
    results: dict[str, object] = {}
    for phase in chosen.phases:
        given = _given(environment, chosen.namespace)
        load_before = os.getloadavg()[0]
        runs = measure(given, phase, chosen.runs, chosen.rate)
        # A run after whose command no canary request started counts as 0 seconds.
        results[phase] = {
            "seconds": summarise([max(0.0, run.seconds or 0.0) for run in runs]),
            "raw": [None if run.seconds is None else round(run.seconds, 4) for run in runs],
            "canary_requests_before": [run.seen for run in runs],
            "machine_load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        }
        print(keep("rollback_time", {"rate": chosen.rate, "phases": results}), flush=True)
        given.deleted()
    environment.kube.kubectl("delete", "namespace", chosen.namespace, "--wait=false")


if __name__ == "__main__":
    main()
