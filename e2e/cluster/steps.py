"""Telling a person what happens: one line a step, with its time, and errors that say what to do.

It never decides anything; every module that takes more than a moment reports through it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class CannotContinueError(Exception):
    """Something a person must mend. The message says what is wrong and what to do."""


def say(text: str) -> None:
    """A line on standard error: standard output is for results that programs read."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(label: str) -> Iterator[None]:
    """Print the label, do the work, print how long it took; a failure is marked as one."""
    sys.stderr.write(f"  {label} ... ")
    sys.stderr.flush()
    start = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"failed after {time.monotonic() - start:.1f} s")
        raise
    say(f"{time.monotonic() - start:.1f} s")


def run(
    arguments: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
) -> str:
    """Run a program and return its standard output.

    Raises CannotContinueError with the end of its error output when it fails, is missing, or
    takes longer than `timeout` seconds.
    """
    words = [str(a) for a in arguments]
    try:
        done = subprocess.run(
            words, input=stdin, env=env, cwd=cwd, timeout=timeout,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as missing:
        raise CannotContinueError(
            f"The program {words[0]} is not installed: `make setup` installs it."
        ) from missing
    except subprocess.TimeoutExpired as late:
        raise CannotContinueError(
            f"No answer within {timeout:.0f} s from: {' '.join(words)}"
        ) from late
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise CannotContinueError(f"{' '.join(words)} failed ({done.returncode}): {said}")
    return done.stdout


def succeeds(arguments: Sequence[str | Path], timeout: float = 60) -> bool:
    """Whether the program exists and ends with 0."""
    try:
        run(arguments, timeout=timeout)
    except CannotContinueError:
        return False
    return True


def wait_until(true: Callable[[], bool], *, within: float, every: float = 0.2) -> bool:
    """Ask again and again; False when `within` seconds have passed without a yes."""
    deadline = time.monotonic() + within
    while True:
        if true():
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
