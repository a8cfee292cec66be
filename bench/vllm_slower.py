"""Real vLLM that is really slower: how long until the gate sends it back.

Revision 1 is a tiny model on real vLLM as it comes. Revision 2 is the same model with
``--max-num-seqs 1``: one request at a time, the others wait in its queue, as with a batch size that
somebody set too small. Users keep several requests open at once, so revision 2 cannot keep up. It
is tried in a shadow step (no user may meet it) and in a canary step whose canary is filled up with
copies. Nothing is injected. Two vLLM processes share this machine's cores, so that the speed of
revision 1 suffers as well: what counts is the verdict and its time, not the factor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from datetime import datetime

from bench.results_file import keep
from e2e.environment import Environment, prepare
from e2e.harness.kube import Json, eventually
from e2e.harness.scenario import Chat, canary, shadow
from e2e.harness.traffic import Tally, Traffic

START = 600.0  # seconds for two vLLM processes to start beside each other
SLOW = "--max-num-seqs=1"
# So many requests come in the time that revision 1 alone takes for one: more than one at a time
# is what revision 2 cannot do. Long answers and few of them, because each costs the API server.
OPEN_AT_ONCE = 3.0
MOST = 10.0  # requests/s
TOKENS = 128
STEPS: dict[str, Json] = {"shadow": shadow("100%", "30m", 1), "canary": canary("5%", "30m", 1)}


def measure(environment: Environment, namespace: str, kind: str) -> Json:
    """One rollout of the slow revision. Raises TimeoutError when it is not sent back."""
    given = Chat(
        environment.kube,
        environment.gateway,
        environment.images["vllm-cpu"],
        namespace,
        name=f"slower-{kind}",
        replicas=1,
        latency_gate="Enforce",
        steps=[STEPS[kind]],
        extra_args=["--enforce-eager"],
        resources={"requests": {"cpu": "200m", "memory": "3Gi"}, "limits": {"memory": "6Gi"}},
    ).serving("v1", timeout=START)
    old = given.stable
    alone = _alone(given)
    rate = min(MOST, OPEN_AT_ONCE / alone)
    print(f"{kind}: one request alone takes {alone:.2f} s; {rate:.1f} requests/s", flush=True)
    with Traffic(given.url, rate, max_tokens=TOKENS, stream_every=1) as load:
        load.wait_for(50, timeout=120)
        given.extra_args = ["--enforce-eager", SLOW]
        given.applied("v1")
        new = given.canary()
        flows = given.in_step(0, timeout=START)
        began = datetime.fromisoformat(flows["step"]["runningSince"]).timestamp()
        compared = eventually("the gate compares", lambda: _canary_requests(given), 180)
        compares = time.time()
        print(f"{kind}: the gate compares after {compares - began:.0f} s: {compared}", flush=True)
        given.sees("rolled back", lambda s: s.get("lastRollback"), 600)
        status = given.back_on(old)
        time.sleep(5)
        tally = load.stop()
    rollback = status["lastRollback"]
    decided = datetime.fromisoformat(rollback["decidedAt"]).timestamp()
    last = tally.last_start(new)
    told = given.command("explain")
    given.deleted(timeout=120)
    return {
        "request_alone_seconds": round(alone, 3),
        "rate": round(rate, 2),
        "rollback": rollback,
        "gates": status.get("gates", []),
        "explained": told,
        "seconds": {
            "first requests to decision": round(decided - began, 1),
            "first comparison seen to decision": round(decided - compares, 1),
            "decision to last canary request": None if last is None else round(last - decided, 2),
        },
        "users": {
            "requests": len(tally),
            "on the slow revision": len(tally.of(new)),
            "failed": len(tally.failures),
            "cut": len(tally.cut),
            "median seconds on revision 1": _median(tally, old),
            "median seconds on revision 2": _median(tally, new),
        },
    }


def _alone(given: Chat) -> float:
    """Seconds of one request when nothing else is asked of the worker."""
    with Traffic(given.url, 0.5, max_tokens=TOKENS, requests=10, stream_every=1) as load:
        tally = load.wait(120)
    if tally.failures:
        raise RuntimeError(tally.explain())
    return statistics.median(o.ended - o.started for o in tally.outcomes)


def _canary_requests(given: Chat) -> int:
    gates: list[Json] = given.status.get("gates", [])
    return next((int(g.get("canaryRequests", 0)) for g in gates if g["name"] == "latency"), 0)


def _median(tally: Tally, revision: str) -> float | None:
    took = [o.ended - o.started for o in tally.of(revision)]
    return round(statistics.median(took), 3) if took else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--namespace", default="bench-vllm-slower")
    chosen = parser.parse_args()
    environment = prepare(["operator", "gateway", "worker", "vllm-cpu"])
    environment.kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": chosen.namespace}}
    )
    load_before = round(os.getloadavg()[0], 1)
    results = {kind: measure(environment, chosen.namespace, kind) for kind in chosen.steps}
    environment.kube.kubectl("delete", "namespace", chosen.namespace, "--wait=false")
    machine_load = [load_before, round(os.getloadavg()[0], 1)]
    print(keep("vllm_slower", {"slow": SLOW, "machine_load": machine_load, "steps": results}))


if __name__ == "__main__":
    main()
