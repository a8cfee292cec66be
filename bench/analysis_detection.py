"""How fast the gate finds a regression: beside the specification's delays, and by rate.

Delays count from the first canary request to the verdict and contain the age at which a request
counts (1 s for the first token). Raw results: bench/results/analysis_detection.json. About five
minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from bench.analysis.many_gates import ManyGates
from bench.analysis.worlds import Rates, Regression, calm, draw_cells, make_stage
from bench.results_file import RESULTS, keep
from llmrollouts.analysis.counts import Metric
from llmrollouts.analysis.evalue import FloatArray
from llmrollouts.analysis.policy import Policy

# The level of a stage of the default plan: five steps and the watch share 1 %.
LEVEL = 0.01 / 6
_NAME = "analysis_detection"
# That of the specification's tables: four stages of three metrics.
SPECIFIED_LEVEL = 8.33e-4
EFFECTS = {
    "+10%": Regression({Metric.TTFT: 1.10}),
    "+25%": Regression({Metric.TTFT: 1.25}),
    "+50%": Regression({Metric.TTFT: 1.5}),
    "2x": Regression({Metric.TTFT: 2.0}),
    "4x": Regression({Metric.TTFT: 4.0}),
    "5% of requests 5x": Regression(tail=0.05),
    "1% errors": Regression(failing=0.01),
    "5% errors": Regression(failing=0.05),
    "20% errors": Regression(failing=0.2),
    "100% errors": Regression(failing=1.0),
}
# Tables T9b (capped; margin 1.10 for one worker, 1.05 for more) and T11: p95 in seconds after the
# request counts.
SPECIFIED = {
    4.25: {"+25%": 217, "+50%": 36, "2x": 15, "4x": 7, "5% of requests 5x": 163,
           "5% errors": 54, "20% errors": 13, "100% errors": 5},
    17.0: {"+10%": 367, "+25%": 31, "+50%": 10, "2x": 7, "4x": 6, "5% of requests 5x": 37},
    42.5: {"+10%": 155, "+25%": 16, "+50%": 7, "2x": 6, "4x": 6, "5% of requests 5x": 18,
           "1% errors": 47, "5% errors": 8, "20% errors": 4, "100% errors": 4},
    85.0: {"+10%": 88, "+25%": 10, "+50%": 6, "2x": 6, "4x": 6, "5% of requests 5x": 12},
    212.5: {"+10%": 42, "+25%": 7, "+50%": 6, "2x": 6, "4x": 6, "5% of requests 5x": 8},
    850.0: {"+10%": 23, "+25%": 7, "+50%": 6, "2x": 6, "4x": 6, "5% of requests 5x": 7},
}  # fmt: skip


def measure(
    rates: Rates,
    regression: Regression,
    runs: int,
    seconds: int,
    seed: Sequence[int],
    level: float | None = None,
) -> FloatArray:
    """Seconds from the onset to the verdict; inf: not within ``seconds``. level: of each test, in
    place of the product's split of ``LEVEL``."""
    stage = make_stage(Policy(), LEVEL, 1800, rates.workers)
    gates, delays = ManyGates(stage), []
    if level is not None:
        gates.levels = dict.fromkeys(gates.levels, level)
    block = max(1, min(runs, 400_000 // (seconds * max(10, rates.workers))))
    for begin in range(0, runs, block):
        rng = np.random.default_rng([*seed, begin])
        paths = calm(min(block, runs - begin), seconds)
        first = gates.run(draw_cells(rng, stage, rates, paths, regression)).first
        delays.append(first - regression.onset)
    return np.concatenate(delays)


def report(delays: FloatArray) -> dict[str, object]:
    """Seconds; null: not found."""

    def quantile(q: float) -> float | None:
        value = float(np.quantile(delays, q, method="higher"))
        return value if math.isfinite(value) else None

    return {
        "runs": len(delays),
        "median": quantile(0.5),
        "p95": quantile(0.95),
        "found": round(float(np.isfinite(delays).mean()), 4),
        "within30s": round(float((delays <= 30).mean()), 4),
    }


def compare(runs: int) -> dict[str, object]:
    """Every cell of the specification's tables: with the product's levels and a control group of
    four times the canary; and with the specification's level and control of 850 requests/s."""
    table: dict[str, object] = {}
    for place, (rate, row) in enumerate(SPECIFIED.items()):
        for number, (name, specified) in enumerate(row.items()):
            seconds = min(600, 3 * specified + 20)
            workers = max(1, round(rate / 4.25))
            rates = Rates(rate, 4 * rate if rate < 200 else 850.0, workers)
            lag = 2 if EFFECTS[name].failing else 1

            def compared(found: dict[str, object], lag: int = lag, most: int = specified) -> object:
                p95 = found["p95"]
                ratio = round((p95 - lag) / most, 2) if isinstance(p95, float) else None
                return {**found, "ratio": ratio}

            seed = [1, place, number]
            ours = report(measure(rates, EFFECTS[name], runs, seconds, seed))
            same = Rates(rate, 850.0, workers)
            theirs = report(measure(same, EFFECTS[name], runs, seconds, seed, SPECIFIED_LEVEL))
            table[f"{rate:g}/s {name}"] = {
                "specifiedP95": specified,
                "product": compared(ours),
                "asSpecified": compared(theirs),
            }
            print(f"{rate:g}/s {name}", table[f"{rate:g}/s {name}"], flush=True)
    return table


def compare_loads(runs: int) -> dict[str, object]:
    """Effect against the service's rate, a 0.5 % step, five workers. Without load matching the
    canary gets the users' 0.5 % only, and is 15 % faster for being almost idle."""
    table: dict[str, object] = {}
    for place, rate in enumerate((5.0, 21.25, 85.0, 425.0)):
        for matched in (True, False):
            canary = rate / 5 if matched else 0.005 * rate
            for number, name in enumerate(("+25%", "+50%", "2x", "4x", "20% errors")):
                effect = EFFECTS[name]
                ratio = effect.ratios.get(Metric.TTFT, 1.0) * (1.0 if matched else 0.85)
                regression = Regression({Metric.TTFT: ratio}, failing=effect.failing)
                rates = Rates(canary, 0.8 * rate)
                key = f"{rate:g}/s {'matched' if matched else 'unmatched'} {name}"
                table[key] = report(measure(rates, regression, runs, 600, [2, place, number]))
                print(key, table[key], flush=True)
    return table


def watch_late(runs: int) -> dict[str, object]:
    """Regressions that begin ten minutes into a step, a hang, a faster canary."""
    cases = {
        "2x after 600 s, 4.25/s": (4.25, Regression({Metric.TTFT: 2.0}, onset=600), 700),
        "2x after 600 s, 42.5/s": (42.5, Regression({Metric.TTFT: 2.0}, onset=600), 660),
        "never answers, 4.25/s": (4.25, Regression(dict.fromkeys(Metric, 1e4)), 60),
        "twice as fast, 42.5/s": (42.5, Regression(dict.fromkeys(Metric, 0.5)), 1800),
    }
    table: dict[str, object] = {}
    for number, (name, (rate, regression, seconds)) in enumerate(cases.items()):
        rates = Rates(rate, 4 * rate, max(1, round(rate / 4.25)))
        table[name] = report(measure(rates, regression, runs, seconds, [3, number]))
        print(name, table[name], flush=True)
    return table


def tell_apart(runs: int) -> dict[str, object]:
    """The same seconds with the canary's workers told apart and without, 4.25 requests/s each."""
    cases = {
        "2 workers, +25%": (2, EFFECTS["+25%"], 200),
        "4 workers, +10%": (4, EFFECTS["+10%"], 600),
        "10 workers, +10%": (10, EFFECTS["+10%"], 300),
        "2 workers, 5% of requests 5x": (2, EFFECTS["5% of requests 5x"], 200),
        **{f"one of {n} workers 4x, for good": (n, None, 60) for n in (2, 5, 20)},
    }
    table: dict[str, object] = {}
    for number, (name, (workers, effect, seconds)) in enumerate(cases.items()):
        stage = make_stage(Policy(), LEVEL, 1800, workers)
        rates = Rates(4.25 * workers, 17.0 * workers, workers)
        delays: dict[str, list[FloatArray]] = {"toldApart": [], "notToldApart": []}
        for begin in range(0, runs, 25):
            rng, paths = np.random.default_rng([4, number, begin]), calm(25, seconds)
            if effect is None:
                paths.canary_stalled = np.zeros((25, seconds, workers))
                paths.canary_stalled[:, :, 0] = 1.0
            cells = draw_cells(rng, stage, rates, paths, effect or Regression())
            whole = {key: value for key, value in cells.items() if not key.startswith("workers:")}
            delays["toldApart"].append(ManyGates(stage).run(cells).first)
            delays["notToldApart"].append(ManyGates(stage).run(whole).first)
        table[name] = {key: report(np.concatenate(found)) for key, found in delays.items()}
        print(name, table[name], flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument(
        "--tell-apart",
        action="store_true",
        help="only what telling the canary's workers apart costs; the other results stay",
    )
    chosen = parser.parse_args()
    begin = time.process_time()
    if chosen.tell_apart:
        stored = json.loads((RESULTS / f"{_NAME}.json").read_text(encoding="utf-8"))
        # The time at the top of the file is that of the other results.
        found = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **tell_apart(chosen.runs)}
        print(keep(_NAME, {**stored, "workersToldApart": found}))
        return
    results = {
        "level": LEVEL,
        "specification": compare(chosen.runs),
        "others": watch_late(chosen.runs // 2),
        "loads": compare_loads(chosen.runs // 2),
        "workersToldApart": tell_apart(chosen.runs // 2),
    }
    print(keep(_NAME, {**results, "cpuSeconds": round(time.process_time() - begin)}))


if __name__ == "__main__":
    main()
