"""The pages of the launcher's port. They only show the state; `/drain` is the supervisor's."""

from __future__ import annotations

from .http_server import Page, PageMaker, json_page
from .sampler import Sampler
from .samples import make_samples
from .state import WorkerState
from .telemetry import render_metrics, render_tap

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def make_pages(state: WorkerState, sampler: Sampler, drain: PageMaker) -> dict[str, PageMaker]:
    """Path -> maker.

    /healthz  200 while the launcher lives and its engine has not died
    /readyz   200 while the worker may take requests, else 503 and why
    /drain    begins to drain at once, answers 200 when the proxies have had their time
    /metrics  the launcher's own few metrics
    /samples  what the tap has measured, for the operator
    /status   the state in words
    """

    async def show_health(_query: str) -> Page:
        if state.engine is not None and not state.engine.running and not state.stopping:
            return Page(503, "the engine has died\n")
        return Page(200, "ok\n")

    async def show_readiness(_query: str) -> Page:
        reasons = state.reasons()
        if reasons:
            return Page(503, "not ready: " + "; ".join(reasons) + "\n")
        return Page(200, "ready\n")

    async def show_metrics(_query: str) -> Page:
        return Page(200, render_metrics(state.reading()) + render_tap(sampler), METRICS_TYPE)

    async def show_status(_query: str) -> Page:
        return json_page(200, state.describe())

    async def show_samples(query: str) -> Page:
        return await make_samples(sampler, query)

    return {
        "/healthz": show_health,
        "/readyz": show_readiness,
        "/drain": drain,
        "/metrics": show_metrics,
        "/samples": show_samples,
        "/status": show_status,
    }
