"""Runs the project's checks and tests, with times; all of them, always.

``python -m tools.verify check``: formats, lints, types, layers, generated files, quick tests.
``python -m tools.verify test``: that, the series that the quick tests sample in whole, the tests
with a real API server, a real Prometheus and a real Envoy, and the end-to-end ones on the local
cluster. A failure is shown in full and does not end the run.
The checks that need no test run two at a time, each printed as a whole when it ends; the tests run
one step after the other and show what they print at once.
Called by `make check` and `make test`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
SOURCES = ("operator", "tools", "e2e", "bench", "worker_image", "tests")
QUICK = (
    "not thorough and not apiserver and not envoy and not prometheus and not cluster and not vllm"
)

# Every test is independent of every other; a free worker takes the next from a busy one.
TWO_CORES = ("-n", "2", "--dist", "worksteal")
# One more than cores: a third of the quick tests' time is waiting for the processes they start.
QUICK_WORKERS = ("-n", "3", "--dist", "worksteal")
CORES = 2

Step = tuple[str, list[str]]


def _tool(name: str, *words: str) -> list[str]:
    return [str(TOOLS / name), *words]


def _python(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def list_checks() -> list[Step]:
    """Those that run no test; independent of each other, the longest first."""
    sources = [s for s in SOURCES if (REPOSITORY / s).is_dir()]
    return [
        ("types", _tool("mypy")),
        ("format", _tool("ruff", "format", "--check", "--quiet", *sources)),
        ("lint", _tool("ruff", "check", "--quiet", *sources)),
        ("house rules", _python("tools.checks")),
        ("CRD is up to date", _python("llmrollouts.api.crd", "--check")),
        ("API reference is up to date", _python("llmrollouts.api.reference", "--check")),
        ("chart files are up to date", _python("tools.chart_files", "--check")),
        ("layers", _tool("lint-imports")),
    ]


def list_quick_tests() -> list[Step]:
    """What needs neither the network nor another program than Python."""
    return [("quick tests", _python("pytest", "-q", *QUICK_WORKERS, "-m", QUICK))]


def list_tests() -> list[Step]:
    """What needs real parts. Each brings up what it needs by itself."""
    return [
        ("whole series", _python("pytest", "-q", *TWO_CORES, "-m", "thorough")),
        (
            "tests with a real API server",
            _python("pytest", "-q", *TWO_CORES, "-m", "apiserver and not envoy"),
        ),
        ("tests with a real Prometheus", _python("pytest", "-q", *TWO_CORES, "-m", "prometheus")),
        # One after the other: they measure times and load both cores by themselves.
        ("tests with a real Envoy", _python("pytest", "-q", "-m", "envoy")),
        # Most of an end-to-end test is waiting for steps to pass, so two run at a time.
        (
            "end to end on the local cluster",
            _python("pytest", "-q", *TWO_CORES, "-m", "cluster and not alone", "e2e/tests"),
        ),
        (
            "end to end, parts of the system down",
            _python("pytest", "-q", "-m", "cluster and alone", "e2e/tests"),
        ),
    ]


def run_steps(steps: list[Step]) -> list[str]:
    """Run each; the names of those that failed. The last one shown is never the only one run."""
    failed = []
    for name, command in steps:
        print(f"== {name}", flush=True)
        begin = time.monotonic()
        code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        print(_end(code, time.monotonic() - begin), flush=True)
        if code:
            failed.append(name)
    return failed


def run_side_by_side(steps: list[Step]) -> list[str]:
    """As `run_steps`, as many at once as there are cores; what one prints stays together."""
    failed = []
    with ThreadPoolExecutor(CORES) as pool:
        running = {pool.submit(_run_quietly, command): name for name, command in steps}
        for done in as_completed(running):
            code, said, seconds = done.result()
            print(f"== {running[done]}\n{said}{_end(code, seconds)}", flush=True)
            if code:
                failed.append(running[done])
    return failed


def _run_quietly(command: list[str]) -> tuple[int, str, float]:
    """Exit code, everything that it printed, seconds."""
    begin = time.monotonic()
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    said = done.stdout if not done.stdout or done.stdout.endswith("\n") else f"{done.stdout}\n"
    return done.returncode, said, time.monotonic() - begin


def _end(code: int, seconds: float) -> str:
    ended = "ok" if code == 0 else f"FAILED (exit {code})"
    return f"   {ended}, {seconds:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.verify")
    parser.add_argument("what", choices=["check", "test"])
    chosen = parser.parse_args().what
    checks = list_checks()
    tests = list_quick_tests() + (list_tests() if chosen == "test" else [])
    begin = time.monotonic()
    failed = run_side_by_side(checks) + run_steps(tests)
    total = len(checks) + len(tests)
    print(f"{total - len(failed)} of {total} passed in {time.monotonic() - begin:.0f} s")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
