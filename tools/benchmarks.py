"""Runs the benchmarks, all or by name, one after the other; `make bench` calls it.

Each benchmark is a module of bench/ with a ``main()``; it brings up what it needs and keeps its
raw results in bench/results/. A failure does not end the others.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def list_benchmarks() -> list[str]:
    """Names of the modules of bench/ that can be run."""
    return sorted(
        file.stem
        for file in (REPOSITORY / "bench").glob("*.py")
        if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
    )


def main() -> int:
    known = list_benchmarks()
    wanted = sys.argv[1:] or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"No benchmark is called {unknown[0]!r}. There are: {', '.join(known)}")
        return 2
    failed = []
    for name in wanted:
        print(f"== {name}", flush=True)
        begin = time.monotonic()
        code = subprocess.run(
            [sys.executable, "-m", f"bench.{name}"], cwd=REPOSITORY, check=False
        ).returncode
        print(f"   exit {code}, {time.monotonic() - begin:.0f} s", flush=True)
        if code:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
