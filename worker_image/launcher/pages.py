"""The pages of the launcher's port. They only show the state; `/drain` is the supervisor's."""

from __future__ import annotations

from .http_client import RequestFailed
from .http_server import Page, PageMaker, json_page
from .idle_probe import EngineClient
from .sampler import Sampler
from .samples import make_samples
from .state import WorkerState
from .telemetry import render_metrics, render_tap

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


# The operator waits for 0.8 s and asks again a second later.
ENGINE_PAGE_SECONDS = 2.0


def make_pages(
    state: WorkerState, sampler: Sampler, engine: EngineClient, drain: PageMaker
) -> dict[str, PageMaker]:
    """Path -> maker.

    /healthz  200 while the launcher lives and its engine has not died
    /readyz   200 while the worker may take requests, else 503 and why
    /drain    begins to drain at once, answers 200 when the proxies have had their time
    /metrics  the launcher's own few metrics
    /samples  what the tap has measured, for the operator
    /engine-metrics  the engine's own /metrics and the launcher's below it: what the operator reads
              where the tap is missing, on the one port of a worker that it may reach
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

    async def show_engine_metrics(_query: str) -> Page:
        try:
            page = await engine.metrics(ENGINE_PAGE_SECONDS)
        except RequestFailed as failure:
            return Page(503, f"the engine gives no metrics: {failure}\n")
        # The probes are counted after the engine has told of them, never before.
        return Page(200, page.rstrip("\n") + "\n" + render_metrics(state.reading()), METRICS_TYPE)

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
        "/engine-metrics": show_engine_metrics,
        "/status": show_status,
    }
