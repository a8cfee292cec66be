"""The port to the workers' measurements: what the controller asks of a worker, each second.

The adapter is ``reading``; tests answer from memory. It decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from llmrollouts.analysis.counts import Measurement
from llmrollouts.metrics.page import Page

# What a worker is measured by: its tap, or, without one, its engine's own histograms.
Source: TypeAlias = Literal["tap", "engine"]
# Which way a latency is rounded that is only known to lie between two bounds.
Rounding: TypeAlias = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Worker:
    """One pod that is measured. uid: of the pod; address: its IP address, never a name."""

    uid: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that may be measured. ready: it answers users now; warm: and has done so for a while,
    so that its caches are filled."""

    worker: Worker
    ready: bool
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """What one read asks for.

    measurement: what is counted; None: only the worker's clock and its totals. since: seconds on
    the worker's clock; cohorts that closed after it are answered. boot: the life of the worker
    whose clock that is. source: by what it is measured; rounding: of the engine's histograms.
    """

    measurement: Measurement | None = None
    since: float | None = None
    boot: str | None = None
    source: Source = "tap"
    rounding: Rounding = "up"


@dataclass(frozen=True, slots=True)
class Reading:
    """A page, and the moment on the asker's clock at which the worker wrote it (the middle of the
    request: the truth is within half its duration)."""

    page: Page
    at: float


class SampleReader(Protocol):
    async def read(self, worker: Worker, query: Query) -> Reading:
        """One page. Raises PageError, within a second; never waits for a slow worker."""

    async def close(self) -> None:
        """Give connections back; no read may follow."""
