"""From a fault of the canary to the verdict, at random phases of all clocks, in simulated time.

The true measurement over the launcher's own pages (tests/controller/fault_delay): 4 canary requests
a second beside 76 of stable. ``bench/gate_faults`` measures the same on the cluster, with all that
comes before and after. A verdict here rests on the workers' pages alone: failures that the gateways
count as well are found at least as soon. Raw results: bench/results/gate_delay.json.
"""

from __future__ import annotations

import argparse
import os
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=200, help="of each fault and service")
    parser.add_argument("--faults", nargs="*", default=["hang", "20 % errors", "empty answers"],
                        choices=get_args(Fault))  # fmt: skip
    chosen = parser.parse_args()
    results: list[dict[str, object]] = []
    load_before = os.getloadavg()[0]
    for fault in chosen.faults:
        for stable, nodes in SERVICES:
            told = [tell(fault, seed, stable, nodes) for seed in range(chosen.stories)]
            found = [each.verdict for each in told if each.verdict is not None]
            result = {"fault": fault, "stable": stable, "nodes": nodes, "found": summarise(found),
                      "stories": [asdict(each) for each in told]}  # fmt: skip
            print(fault, stable, nodes, result["found"], flush=True)
            results.append(result)
    machine_load = [round(load_before, 1), round(os.getloadavg()[0], 1)]
    print(keep("gate_delay", {"machine_load": machine_load, "results": results}))


if __name__ == "__main__":
    main()
