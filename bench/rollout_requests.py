"""A whole rollout under 100,000 counted requests: shares, mirrors, failures, load per worker."""

from __future__ import annotations

import argparse
import math
import time

from bench.results_file import keep
from e2e.environment import prepare
from e2e.harness.scenario import Chat, canary, shadow

STEPS = [
    shadow("20%", "60s", 100),
    canary("0.5%", "150s", 5),
    canary("5%", "120s", 50),
    canary("25%", "45s", 100),
    canary("50%", "45s", 100),
]
SHARES = [0.0, 0.005, 0.05, 0.25, 0.5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--namespace", default="bench-rollout")
    chosen = parser.parse_args()
    environment = prepare(["operator", "gateway", "worker", "fake-engine"])
    environment.kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": chosen.namespace}}
    )
    given = Chat(
        environment.kube,
        environment.gateway,
        environment.images["fake-engine"],
        chosen.namespace,
        name="rollout",
        replicas=2,
        steps=STEPS,
        rollback_window="30s",
    ).serving("v1")
    old = given.stable
    began: list[float] = []
    decided: list[float] = []
    reported: list[dict[str, float]] = []
    with given.traffic(rate=chosen.rate, requests=chosen.requests) as load:
        load.wait_for(1000)
        given.applied("v2")
        new = given.canary()
        for index in range(len(STEPS)):
            decided.append(given.decided_at(given.in_step(index, timeout=400)))
            began.append(time.time())
            time.sleep(25)  # the gateways' counts are in the status once every ten seconds
            status = given.status
            live, mirrored = (
                float(str(status.get(name) or "0%").rstrip("%")) / 100
                for name in ("measuredShare", "measuredShadowShare")
            )
            of_canary = (live + mirrored) / len(given.pods(new))
            of_stable = (1 - live) / len(given.pods(old))
            reported.append(
                {"live": live, "mirrored": mirrored, "canary_to_stable_load": of_canary / of_stable}
            )
        given.promoted(new, timeout=240)
        promoted = time.time()
        print("Promoted; sending what is left of the requests", flush=True)
        tally = load.wait(timeout=3600)
    rows = []
    for index, wanted in enumerate(SHARES):
        end = decided[index + 1] if index + 1 < len(decided) else began[index] + 40
        part = tally.between(began[index], end)
        sigma = math.sqrt(wanted * (1 - wanted) / max(1, len(part)))
        rows.append(
            {
                "step": STEPS[index],
                "requests": len(part),
                "canary": len(part.of(new)),
                "share": part.share(new),
                "wanted": wanted,
                "sigmas": (part.share(new) - wanted) / sigma if sigma else 0.0,
                "reported": reported[index],
            }
        )
    after = tally.between(promoted)
    file = keep(
        "rollout_requests",
        {
            "requests": len(tally),
            "failed": len(tally.failures),
            "cut": len(tally.cut),
            "by_revision": {"old": len(tally.of(old)), "new": len(tally.of(new))},
            "steps": rows,
            "after_promotion": {"requests": len(after), "flickered_back": len(after.of(old))},
            "explain": tally.explain(),
        },
    )
    given.deleted()
    environment.kube.kubectl("delete", "namespace", chosen.namespace, "--wait=false")
    print(file.read_text())


if __name__ == "__main__":
    main()
