"""The promotion proof: how often a canary at the edge is promoted, how soon an equal one.

Raw results: bench/results/analysis_promotion.json. About two minutes on one core.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bench.analysis.intervals import report_chance
from bench.analysis.many_gates import ManyGates
from bench.analysis.worlds import Rates, Regression, calm, draw_cells, make_stage
from bench.analysis_detection import LEVEL, report
from bench.results_file import keep
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.evalue import FloatArray
from llmrollouts.analysis.policy import Policy


def measure(rates: Rates, regression: Regression, runs: int, seconds: int, seed: int) -> FloatArray:
    """The second at which every quantile of every metric was accepted; inf: never."""
    stage = make_stage(Policy(), LEVEL, seconds, rates.workers)
    gates, proven = ManyGates(stage), []
    for begin in range(0, runs, 25):
        rng = np.random.default_rng([seed, begin])
        paths = calm(min(25, runs - begin), seconds)
        cells = draw_cells(rng, stage, rates, paths, regression, proof=True)
        proven.append(gates.prove(cells))
    return np.concatenate(proven)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    chosen = parser.parse_args()
    begin = time.process_time()
    edge: dict[str, object] = {}
    equal: dict[str, object] = {}
    for number, (canary, seconds) in enumerate(((4.25, 1800), (42.5, 600))):
        rates = Rates(canary, 4 * canary, max(1, round(canary / 4.25)))
        for metric in (Metric.E2E, Metric.TTFT):
            regression = Regression({metric: 1.25})
            proven = measure(rates, regression, chosen.runs, seconds, 10 + number)
            name = f"{metric.value} exactly 1.25x, {canary:g}/s"
            edge[name] = report_chance(int(np.isfinite(proven).sum()), chosen.runs)
            print(name, edge[name], flush=True)
        found = report(measure(rates, Regression(), chosen.runs, seconds, 20 + number))
        equal[f"equal, {canary:g}/s"] = found
        print("equal", canary, found, flush=True)
    cpu = round(time.process_time() - begin)
    print(keep("analysis_promotion", {"edge": edge, "equal": equal, "cpuSeconds": cpu}))


if __name__ == "__main__":
    main()
