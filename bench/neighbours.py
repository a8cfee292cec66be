"""A hundred idle deployments on the local cluster, and one beside them that rolls out and back.

The operator's cost of idle ones is measured against a bare API server (bench/idle.py); here every
worker is a real pod. The one that rolls out must not notice its neighbours, and they not it.
"""

from __future__ import annotations

import argparse
import os
import time

from bench.results_file import keep
from e2e.environment import prepare
from e2e.harness.faults import operator_pods
from e2e.harness.kube import Json
from e2e.harness.scenario import Chat, canary, shadow

ALL_SERVING = 1200.0  # seconds for a hundred pods on two cores
# A hundred of the tests' usual workers ask for more processor than two cores have.
SMALL: Json = {"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=100, help="idle deployments of one worker")
    parser.add_argument("--rate", type=float, default=30.0, help="requests/s to the one in rollout")
    parser.add_argument("--namespace", default="bench-neighbours")
    chosen = parser.parse_args()
    environment = prepare(["operator", "gateway", "worker", "fake-engine"])
    kube = environment.kube
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": chosen.namespace}})

    def deployment(name: str, **options: object) -> Chat:
        return Chat(
            kube,
            environment.gateway,
            environment.images["fake-engine"],
            chosen.namespace,
            name=name,
            replicas=1,
            resources=SMALL,
            **options,  # type: ignore[arg-type]  # as in Chat
        )

    idle = [deployment(f"idle-{number}") for number in range(chosen.idle)]
    began = time.monotonic()
    for first in range(0, len(idle), 10):  # a batch starts while the next is applied
        batch = idle[first : first + 10]
        kube.apply(*(one.manifest("v1") for one in batch))
        for one in batch:
            one.sees("serving", lambda s: s.get("phase") == "Serving", ALL_SERVING)
        print(f"{first + len(batch)} serve after {time.monotonic() - began:.0f} s", flush=True)
    until_serving = time.monotonic() - began

    given = deployment("busy", steps=[shadow("20%"), canary("5%"), canary("50%")]).serving("v1")
    old = given.stable
    before = _versions(idle)
    restarts = sum(sum(one.restarts().values()) for one in idle)
    load_average = os.getloadavg()[0]
    with given.traffic(rate=chosen.rate) as load:
        given.applied("v2")
        new = given.canary(60)
        given.promoted(new, 240)
        asked = time.time()
        given.command("rollback")
        given.back_on(old)
        load.wait_for(int(chosen.rate * 5))
        tally = load.stop()
    last = tally.between(asked).last_start(new)
    results: Json = {
        "idle": chosen.idle,
        "seconds_until_all_serve": round(until_serving, 1),
        "machine_load": round(load_average, 1),
        "requests": len(tally),
        "failed": len(tally.failures),
        "cut": len(tally.cut),
        "rollback_to_last_canary_request": None if last is None else round(last - asked, 3),
        "idle_written_to": sum(a != b for a, b in zip(before, _versions(idle), strict=True)),
        "idle_restarts": sum(sum(one.restarts().values()) for one in idle) - restarts,
        "operator_restarts": sum(
            c.get("restartCount", 0)
            for pod in operator_pods(kube, environment.system)
            for c in pod["status"]["containerStatuses"]
        ),
        "explain": tally.explain(),
    }
    kube.kubectl("delete", "namespace", chosen.namespace, "--wait=false")
    print(keep("neighbours", results).read_text())


def _versions(deployments: list[Chat]) -> list[str]:
    return [(one.resource or {})["metadata"]["resourceVersion"] for one in deployments]


if __name__ == "__main__":
    main()
