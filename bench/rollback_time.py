"""From the command to the last user request that starts on the canary, run after run.

One deployment of fake engines, a 50 % canary, steady users. Each run rolls back by the plain
annotation (no command line tool in between), waits for the users to be back, and retries the
revision. A phase after promotion is measured the same way with the warm revision.
"""

from __future__ import annotations

import argparse
import time

from bench.results_file import keep, summarise
from e2e.environment import Environment, prepare
from e2e.harness.scenario import Chat, canary, shadow


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
        steps=[shadow("20%", "30m"), canary("0.5%", "30m", 1), canary("50%", "30m", 1)],
    )


def measure(given: Chat, runs: int, rate: float, after_promotion: bool) -> list[float]:
    """Seconds from the moment before the annotation to the start of the last canary request."""
    given.serving("v1")
    old = given.stable
    seconds = []
    given.applied("v2")
    for run in range(runs):
        if run:
            given.command("retry")
        new = given.canary()
        given.in_step(0)
        given.command("skip")
        given.in_step(1)
        given.command("skip")
        given.in_step(2)
        if after_promotion:
            given.command("skip")
            given.promoted(new)
        with given.traffic(rate=rate) as load:
            load.wait_for(int(rate * 2))
            asked = time.time()
            given.annotate(f"rollback/{run}")
            given.back_on(old)
            load.wait_for(int(rate))
            tally = load.stop()
        if tally.failures:
            raise SystemExit(tally.explain())
        last = tally.between(asked).last_start(new)
        seconds.append(max(0.0, (last or asked) - asked))
        print(f"run {run + 1} of {runs}: {seconds[-1]:.3f} s", flush=True)
        given.sees("held", lambda s: s.get("phase") == "Degraded", 60)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--namespace", default="bench-rollback")
    chosen = parser.parse_args()
    environment = prepare(["operator", "gateway", "worker", "fake-engine"])
    results = {}
    for phase, after in (("canary at 50%", False), ("after promotion", True)):
        given = _given(environment, chosen.namespace)
        runs = chosen.runs if not after else max(1, chosen.runs // 5)
        raw = measure(given, runs, chosen.rate, after)
        results[phase] = {"seconds": summarise(raw), "raw": [round(value, 4) for value in raw]}
        given.deleted()
    environment.kube.kubectl("delete", "namespace", chosen.namespace, "--wait=false")
    print(keep("rollback_time", {"rate": chosen.rate, "phases": results}))


if __name__ == "__main__":
    main()
