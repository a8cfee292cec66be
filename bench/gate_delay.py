"""From a fault of the canary to the verdict, at random phases of all clocks, in simulated time.

The true measurement over the launcher's own pages (tests/controller/fault_delay): 4 canary requests
a second beside 76 of stable. ``bench/gate_faults`` measures the same on the cluster, with all that
comes before and after. A verdict here rests on the workers' pages alone: failures that the gateways
count as well are found at least as soon. Raw results: bench/results/gate_delay.json.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import get_args

import looptime

from bench.results_file import keep, summarise
from tests.controller.fault_delay import Delay, Fault, Nodes, measure_delay

# Stable workers, and whether all clocks are one machine's.
SERVICES: tuple[tuple[int, Nodes], ...] = ((1, "one node"), (4, "many nodes"))


def tell(fault: Fault, seed: int, stable: int, nodes: Nodes) -> Delay:
    """One story in a loop of its own."""
    loop = looptime.new_event_loop(start=0)
    try:
        return loop.run_until_complete(measure_delay(fault, seed, stable=stable, nodes=nodes))
    finally:
        loop.close()


def tell_all(fault: Fault, stable: int, nodes: Nodes, stories: int) -> dict[str, object]:
    """Seeds from 0 on; the result as it is kept."""
    told = [tell(fault, seed, stable, nodes) for seed in range(stories)]
    found = summarise([each.verdict for each in told if each.verdict is not None])
    print(fault, stable, nodes, found, flush=True)
    raw = [asdict(each) for each in told]
    return {"fault": fault, "stable": stable, "nodes": nodes, "found": found, "stories": raw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=200, help="of each fault and service")
    parser.add_argument("--at-once", type=int, default=2, help="processes")
    parser.add_argument("--faults", nargs="*", default=["hang", "20 % errors"],
                        choices=get_args(Fault))  # fmt: skip
    chosen = parser.parse_args()
    load_before = os.getloadavg()[0]
    with ProcessPoolExecutor(chosen.at_once) as pool:
        futures = [
            pool.submit(tell_all, fault, stable, nodes, chosen.stories)
            for fault in chosen.faults
            for stable, nodes in SERVICES
        ]
        results = [future.result() for future in futures]
    machine_load = [round(load_before, 1), round(os.getloadavg()[0], 1)]
    print(keep("gate_delay", {"machine_load": machine_load, "results": results}))


if __name__ == "__main__":
    main()
