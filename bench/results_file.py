"""How a benchmark keeps what it measured: raw values first, sums beside them, one JSON a run."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Count, minimum, median, p95, p99 and maximum; values in the unit they came in."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)

    def quantile(q: float) -> float:
        # The value that at least a share q of the runs did not exceed: no interpolation.
        return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1))]

    return {
        "count": len(ordered),
        "min": round(ordered[0], 4),
        "median": round(statistics.median(ordered), 4),
        "p95": round(quantile(0.95), 4),
        "p99": round(quantile(0.99), 4),
        "max": round(ordered[-1], 4),
    }


def keep(name: str, results: Mapping[str, object]) -> Path:
    """Write ``bench/results/<name>.json``; the newest run replaces the one before it."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    machine = {"cores": _cores(), "python": platform.python_version(), "kernel": platform.release()}
    content = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, **results}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def _cores() -> int:
    return len(
        [
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("processor")
        ]
    )
