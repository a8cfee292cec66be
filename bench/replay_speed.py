"""What `kubectl llm replay` costs: a million records, dense and sparse.

    python -m bench.replay_speed [--records 1000000]

Each trace is made in a temporary directory and replayed through the command's own reader and gate,
in a process of its own. The cost is by the second of trace more than by the record, so a sparse
trace is the hard one: a million records at 10 requests/s are 28 hours. At 1 request/s a tenth of
the records is taken, which are as many seconds. Processor time; beside it the wall clock and the
most memory. Fails when a million records need more than 30 s of one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from bench.results_file import keep
from llmrollouts.cli.policy_file import read_policy
from llmrollouts.cli.replay import choose_step, run_replay
from llmrollouts.cli.trace_file import read_recording
from tests.analysis.traces import make_trace

MOST_SECONDS = 30.0
SHARE = 0.1
POLICY = """
objectives: {ttftP99: 350ms}
strategy:
  steps:
    - canary: {share: 10%, duration: 30m}
"""


def write_trace(path: Path, rate: float, records: int) -> None:
    """An equal canary from when the baseline is complete."""
    trace = make_trace(rate, SHARE, round(records / rate), lead=max(60.0, 300 / rate))
    columns = (
        trace.arrival.tolist(), trace.canary.tolist(), trace.ttft.tolist(), trace.tpot.tolist(),
        trace.e2e.tolist(), trace.tokens.tolist(), trace.status.tolist(),
    )  # fmt: skip
    with path.open("w", encoding="utf-8") as file:
        for t, canary, ttft, tpot, e2e, tokens, status in zip(*columns, strict=True):
            record = {
                "t": round(t, 4),
                "revision": "canary" if canary else "stable",
                "replica": "c0" if canary else "s0",
                "ttft": round(ttft, 5),
                "tpot": round(tpot, 6),
                "e2e": round(e2e, 5),
                "tokens": tokens,
                "status": status,
            }
            file.write(json.dumps(record) + "\n")


def measure(path: Path, policy: Path) -> dict[str, object]:
    """One replay in this process."""
    given = read_policy(policy)
    began, wall = time.process_time(), time.perf_counter()
    recording = read_recording(path)
    read = time.process_time()
    result = run_replay(recording, given, choose_step(given))
    ended = time.process_time()
    seconds = result.judgement.seconds
    return {
        "records": len(recording.trace),
        "seconds_of_trace": seconds,
        "verdict": result.verdict.value,
        "cpu_s": round(ended - began, 2),
        "of_it_reading_s": round(read - began, 2),
        "cpu_ms_each_second": round(1000 * (ended - read) / max(1, seconds), 3),
        "wall_s": round(time.perf_counter() - wall, 2),
        "most_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, default=1_000_000)
    records = options.parse_args().records
    traces = [(850.0, records), (10.0, records), (1.0, records // 10)]
    runs = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        for rate, count in traces:
            path = Path(folder) / "trace.jsonl"
            write_trace(path, rate, count)
            with spawn.Pool(1) as pool:
                runs.append({"requests_per_second": rate, **pool.apply(measure, (path, policy))})
            print(runs[-1], flush=True)
    keep("replay_speed", {"load_average": os.getloadavg(), "replays": runs})
    slowest = max(float(str(run["cpu_s"])) for run in runs)
    print("within its bounds" if slowest <= MOST_SECONDS else "over its bounds")
    return 0 if slowest <= MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
