"""A worker whose tap is off, as a process: the launcher passes the engine's page on, and the
operator's reader makes seconds of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from llmrollouts.analysis.counts import Counts, Measurement, Metric, Outcomes
from llmrollouts.analysis.grid import bucket_of
from llmrollouts.metrics.cursor import Cursor, keys_of
from llmrollouts.metrics.engine_metrics import NoEngineMetrics
from llmrollouts.metrics.fetch import PageFetcher
from llmrollouts.metrics.page import Page
from llmrollouts.metrics.port import Query, Rounding
from llmrollouts.metrics.port import Worker as Pod
from llmrollouts.metrics.reading import WorkerReader
from tests.worker_image.programs import (
    Worker,
    call,
    complete,
    eventually,
    stream_events,
)

StartWorker = Callable[..., Worker]
POD = Pod("uid-1", "chat-abc-1", "127.0.0.1")
ASKED = Measurement(
    {Metric.TTFT: (1.0,), Metric.TPOT: (2.0,), Metric.DURATION: (2.0,)}, {}, 64, (2.0, 30.0)
)
UNTAPPED = {"tap": False}


async def measure(
    worker: Worker, send: Callable[[], None], rounding: Rounding
) -> tuple[dict[Metric, Counts], Outcomes, Page]:
    """What the reader makes of the requests that ``send`` makes."""
    reader = WorkerReader(PageFetcher(port=worker.port, time_out=5.0))
    try:
        first = (await reader.read(POD, Query(source="engine"))).page
        cursor = Cursor.at(keys_of(ASKED), first.boot, first.now)
        latencies: dict[Metric, Counts] = {}
        ends = Outcomes()
        sending = asyncio.get_running_loop().run_in_executor(None, send)
        last = False
        while True:
            await asyncio.sleep(0.4)
            query = Query(ASKED, cursor.since, cursor.boot, "engine", rounding)
            page = (await reader.read(POD, query)).page
            taken = cursor.take(page)
            for stream, _, counts in taken.counts:
                latencies[stream.metric] = latencies.get(stream.metric, Counts()) + counts
            for lag, _, outcomes in taken.ends:
                ends = ends + outcomes if lag == 2.0 else ends
            if last:
                await sending
                return latencies, ends, page
            last = sending.done()
    finally:
        await reader.close()


async def test_without_the_tap_the_engines_histograms_count_what_users_met(
    worker: StartWorker,
) -> None:
    started = await asyncio.to_thread(lambda: worker(settings=UNTAPPED).until_ready())
    assert call(started.port, "/samples").json["tap"] is False
    eventually(lambda: started.metric('idle_probes_total{result="token"}') > 3, "probed")

    def send() -> None:
        for _ in range(12):
            assert len(list(stream_events(started.engine_port, 9))) == 10
        for _ in range(6):
            assert complete(started.engine_port, 5).status == 200
        assert complete(started.engine_port, 100_000).status == 400
        started.set_faults(spare_probes=True, error_rate=1.0)
        for _ in range(3):
            assert complete(started.engine_port, 5).status >= 500

    latencies, ends, page = await measure(started, send, "up")
    for metric in (Metric.TTFT, Metric.TPOT, Metric.DURATION):
        # Probes are answered all the while; at most one is between its token and its count.
        assert 17 <= latencies[metric].total <= 20, metric
    assert 21 <= ends.total <= 24
    assert (ends.failed, ends.refused) == (3, 1)
    assert page.tap is False
    assert page.live >= 22


async def test_a_slow_engine_is_slow_on_its_own_page(worker: StartWorker) -> None:
    started = await asyncio.to_thread(lambda: worker(settings=UNTAPPED).until_ready())
    started.set_faults(spare_probes=True, ttft_ms=300)

    def send() -> None:
        for _ in range(5):
            assert complete(started.engine_port, 2).status == 200

    latencies, _, _ = await measure(started, send, "down")
    over, of = latencies[Metric.TTFT].exceeding(bucket_of(0.24))
    assert over >= 5, "above the bound of 250 ms"
    assert of >= over


async def test_an_engine_that_shows_no_page_is_an_error_with_a_reason(
    worker: StartWorker,
) -> None:
    started = await asyncio.to_thread(lambda: worker(settings=UNTAPPED).until_ready())
    reader = WorkerReader(PageFetcher(port=started.port, time_out=5.0))
    try:
        for pid in started.engine_processes():
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(
            NoEngineMetrics, match=r"no page of metrics \(the launcher answered 503\)"
        ):
            await reader.read(POD, Query(source="engine"))
    finally:
        await reader.close()
        for pid in started.engine_processes():
            os.kill(pid, signal.SIGCONT)
