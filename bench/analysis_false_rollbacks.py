"""False rollbacks: whole simulated rollouts of a good revision, and the level of one test.

Raw results: bench/results/analysis_false_rollbacks.json. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from bench.analysis.conversations import count_prefix_rollbacks
from bench.analysis.intervals import report_chance
from bench.analysis.many_gates import ManyGates
from bench.analysis.rollouts import LARGE_STEPS, WORLDS, count_rollbacks, stalled_service
from bench.analysis.worlds import Rates, Regression, calm, draw_cells, make_stage, walk
from bench.results_file import RESULTS, keep
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.grid import GROWTH
from llmrollouts.analysis.policy import Policy

# The level at which the theorem itself is checked; a stage's is far smaller.
LEVEL = 0.05
_NAME = "analysis_false_rollbacks"


def measure_level(runs: int, ratio: float, seed: int, *, drift: bool = False) -> dict[str, object]:
    """How often TTFT decides within 30 minutes at level 0.05, the canary ``ratio`` times slower."""
    stage = make_stage(Policy(), 0.01, 1800, 1)
    gates = ManyGates(stage)
    gates.levels = dict.fromkeys(gates.levels, LEVEL)
    hits = 0
    for begin in range(0, runs, 100):
        rng = np.random.default_rng([seed, begin])
        paths = calm(min(100, runs - begin), 1800)
        if drift:
            paths.shift = walk(rng, len(paths.shift), 1800, 0.10, 120)
        regression = Regression({Metric.TTFT: ratio})
        cells = draw_cells(rng, stage, Rates(4.25, 17), paths, regression)
        hits += int(np.isfinite(gates.decide(cells, Metric.TTFT)).sum())
    return report_chance(hits, runs)


def keep_large_steps(runs: int) -> object:
    """The steps of several canary workers under stalls, by the size of the service."""
    # The time at the top of the file is that of the other results.
    found: dict[str, object] = {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    for workers in (5, 10, 20, 40):
        lost, blamed = count_rollbacks(
            stalled_service(workers), runs, 100 + workers, names=LARGE_STEPS
        )
        found[f"{workers} workers"] = {**report_chance(lost, runs), "blamed": blamed}
        print(workers, "workers", found[f"{workers} workers"], flush=True)
    stored = json.loads((RESULTS / f"{_NAME}.json").read_text(encoding="utf-8"))
    return keep(_NAME, {**stored, "stallsInLargeSteps": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=400)
    parser.add_argument("--level-runs", type=int, default=2000)
    parser.add_argument("--conversations", type=int, default=60)
    parser.add_argument(
        "--large-steps",
        action="store_true",
        help="only the steps of several canary workers, under stalls; the other results stay",
    )
    chosen = parser.parse_args()
    begin = time.process_time()
    if chosen.large_steps:
        print(keep_large_steps(chosen.rollouts))
        return
    level = {
        "equal": measure_level(chosen.level_runs, 1.0, 11),
        "exactly the margin slower": measure_level(chosen.level_runs, GROWTH**2, 12),
        "exactly the margin slower, common drift": measure_level(
            chosen.level_runs, GROWTH**2, 13, drift=True
        ),
    }
    print("level 0.05:", level, flush=True)
    rollouts: dict[str, object] = {}
    for number, world in enumerate(WORLDS):
        lost, blamed = count_rollbacks(world, chosen.rollouts, number)
        rollouts[world.name] = {
            **report_chance(lost, chosen.rollouts), "rate": world.rate, "blamed": blamed,
        }  # fmt: skip
        print(world.name, rollouts[world.name], f"{time.process_time() - begin:.0f} s", flush=True)
        _keep(level, rollouts, begin)
    lost, blamed = count_prefix_rollbacks(chosen.conversations, 99)
    rollouts["prefix caching"] = {
        **report_chance(lost, chosen.conversations), "rate": 5.0, "blamed": blamed,
    }  # fmt: skip
    print("prefix caching", rollouts["prefix caching"], flush=True)
    print(_keep(level, rollouts, begin))


def _keep(level: Mapping[str, object], rollouts: Mapping[str, object], begin: float) -> object:
    seconds = round(time.process_time() - begin)
    return keep(
        _NAME,
        {"levelOfTheTest": LEVEL, "typeOne": level, "rollouts": rollouts, "cpuSeconds": seconds},
    )


if __name__ == "__main__":
    main()
