"""The complete series: every error of the API at every single call of a rollout and a rollback.

    python -m bench.every_call [--stories roll_out roll_back] [--processes 2]

The tests try a sample of the calls (tests/controller/test_rollout_through_the_shell.py); this
tries all of them, on the same fakes: the whole story once for each call and each error, and the
end must be that of a story without any error, with no share ever above its step. It ends with 1
if one differs. Minutes of processor time, so no part of the tests.
Results: bench/results/every_call.json.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.results_file import keep
from tests.controller.shell import Shell
from tests.controller.test_rollout_through_the_shell import Story, fail_at, roll_back, roll_out
from tests.fakes.kube_faults import API_ERRORS, Call, Fault

STORIES: Mapping[str, Story] = {"roll_out": roll_out, "roll_back": roll_back}


@dataclass(frozen=True)
class Trial:
    """One error at one call of a story."""

    story: str
    call: Call
    fault: Fault


async def tell_cleanly(story: str) -> tuple[Sequence[Call], Any]:
    """The calls of a story without any error, and its end."""
    shell = Shell()
    await STORIES[story](shell)
    return shell.kube.calls, shell.end_state()


def attempt(expected: Mapping[str, Any], trial: Trial) -> str | None:
    """What went wrong, or None."""
    try:
        story = STORIES[trial.story]
        asyncio.run(fail_at(story, trial.call, trial.fault, expected[trial.story]))
    except AssertionError as error:
        return (
            f"{trial.story}: {trial.fault.name} at call {trial.call.number}, {trial.call}: {error}"
        )
    return None


def hush() -> None:
    """Thousands of stories have nothing to tell but their ends."""
    logging.disable(logging.CRITICAL)


def measure(stories: Sequence[str], processes: int) -> dict[str, Any]:
    hush()
    clean = {story: asyncio.run(tell_cleanly(story)) for story in stories}
    expected = {story: end for story, (_, end) in clean.items()}
    trials = [
        Trial(story, call, fault)
        for story, (calls, _) in clean.items()
        for call in calls
        for fault in API_ERRORS
    ]
    began = time.monotonic()
    with ProcessPoolExecutor(processes, initializer=hush) as pool:
        wrong = [text for text in pool.map(partial(attempt, expected), trials, chunksize=8) if text]
    return {
        "calls": {story: len(calls) for story, (calls, _) in clean.items()},
        "writes": {s: sum(c.is_write for c in calls) for s, (calls, _) in clean.items()},
        "errors": [fault.name for fault in API_ERRORS],
        "trials": len(trials),
        "wrong": wrong,
        "seconds": round(time.monotonic() - began, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", nargs="+", choices=[*STORIES], default=[*STORIES])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--name", default="every_call", help="of the file in bench/results")
    chosen = parser.parse_args()
    results = measure(chosen.stories, chosen.processes)
    print(
        f"{results['trials']} trials, {len(results['wrong'])} wrong: {keep(chosen.name, results)}"
    )
    for text in results["wrong"]:
        print(text)
    sys.exit(1 if results["wrong"] else 0)


if __name__ == "__main__":
    main()
