"""Starts the counting client beside a test and reads what it counted."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from scipy.stats import binom

from e2e.harness.client import Outcome


@dataclass(frozen=True)
class Tally:
    """Outcomes of a stretch of time, with the sums that tests ask for."""

    outcomes: tuple[Outcome, ...]

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def by_revision(self) -> Counter[str]:
        return Counter(o.revision or "none" for o in self.outcomes)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        return tuple(o for o in self.outcomes if o.outcome == "failed")

    @property
    def cut(self) -> tuple[Outcome, ...]:
        return tuple(o for o in self.outcomes if o.outcome == "cut")

    def of(self, revision: str) -> tuple[Outcome, ...]:
        return tuple(o for o in self.outcomes if o.revision == revision)

    def between(self, begin: float, end: float = math.inf) -> Tally:
        """Requests that *started* in this stretch of the wall clock."""
        return Tally(tuple(o for o in self.outcomes if begin <= o.started < end))

    def last_start(self, revision: str) -> float | None:
        """When the last request that this revision answered began."""
        return max((o.started for o in self.of(revision)), default=None)

    def share(self, revision: str) -> float:
        return len(self.of(revision)) / len(self.outcomes) if self.outcomes else 0.0

    def explain(self, limit: int = 5) -> str:
        """What went wrong, for the message of a failed check."""
        wrong = [o for o in self.outcomes if o.outcome != "ok"]
        lines = [f"{o.started:.2f} {o.outcome} {o.revision} {o.detail}" for o in wrong[:limit]]
        return f"{len(wrong)} of {len(self.outcomes)} requests went wrong\n" + "\n".join(lines)


def is_plausible(hits: int, wanted: float, requests: int) -> bool:
    """Whether chance gives so many or more (so few or fewer) at least once in 10,000 tries.

    Exact, for short forms: three standard deviations of a handful of requests are passed by
    chance once in some hundred runs, and a test that fails by chance is a bug.
    """
    least = 0.5e-4
    fewer, more = binom.cdf(hits, requests, wanted), binom.sf(hits - 1, requests, wanted)
    return bool(fewer >= least and more >= least)


def within_three_sigma(share: float, wanted: float, requests: int) -> bool:
    """Whether a measured share of ``requests`` is what chance allows of ``wanted``."""
    return abs(share - wanted) <= 3 * math.sqrt(wanted * (1 - wanted) / requests)


class Traffic:
    """A steady load in a process of its own; as a context manager it always ends."""

    def __init__(
        self,
        url: str,
        rate: float,
        *,
        model: str = "chat",
        max_tokens: int = 8,
        requests: int = 0,
        pin: str | None = None,
        stream_every: int = 3,
        program: str = "e2e.harness.client",
    ) -> None:
        handle, name = tempfile.mkstemp(prefix="llmr-traffic-", suffix=".jsonl")
        os.close(handle)
        self.file = Path(name)
        command = [sys.executable, "-m", program, "--url", url, "--rate", str(rate), "--out", name]
        if program == "e2e.harness.client":
            command += ["--model", model, "--max-tokens", str(max_tokens)]
            command += ["--requests", str(requests), "--stream-every", str(stream_every)]
        if pin:
            command += ["--pin", pin]
        self.process = subprocess.Popen(command)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.file.unlink(missing_ok=True)

    def stop(self) -> Tally:
        """End the load, wait for the open requests, and read everything that was counted."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=150)
        return self.so_far()

    def wait(self, timeout: float) -> Tally:
        """Wait until the client has sent all its requests."""
        self.process.wait(timeout=timeout)
        return self.so_far()

    def so_far(self) -> Tally:
        """Everything counted until a moment ago. The last line may be half written: left out."""
        return Tally(tuple(_read(self.file.read_text(encoding="utf-8").splitlines(keepends=True))))

    def wait_for(self, requests: int, timeout: float = 60) -> Tally:
        """Wait until so many more requests have ended."""
        have = len(self.so_far())
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            tally = self.so_far()
            if len(tally) >= have + requests:
                return tally
            time.sleep(0.2)
        raise TimeoutError(f"the client finished fewer than {requests} requests in {timeout} s")


def _read(lines: Iterable[str]) -> Iterable[Outcome]:
    for line in lines:
        if line.endswith("\n"):
            yield Outcome(**json.loads(line))
