"""A gate from a real Prometheus, from its Secret to its verdict, through a proxy with a token."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from pathlib import Path

import pytest

from llmrollouts.api.reasons import Reason
from llmrollouts.controller import prometheus_asking
from llmrollouts.controller.prometheus_gates import PrometheusGates
from llmrollouts.kube.port import SECRET
from llmrollouts.metrics.prometheus import PrometheusClient
from llmrollouts.metrics.prometheus_address import AllowedAddresses
from llmrollouts.rollout.observation import Gate
from tests.controller.prometheus_bench import KEY, make_gate, observe
from tests.fakes.kube import FakeKube
from tests.metrics.prometheus_process import start_prometheus
from tests.metrics.strange_server import StrangeServer

pytestmark = pytest.mark.prometheus


async def until(
    gates: PrometheusGates, gate: dict[str, object], verdict: str, reason: Reason
) -> Gate:
    end = time.monotonic() + 40
    while True:
        found = gates.judge(observe(gate))[0]
        if (found.verdict, found.reason) == (verdict, reason):
            return found
        assert time.monotonic() < end, f"instead of {verdict} {reason}: {found}"
        await asyncio.sleep(0.1)


async def test_a_gate_follows_what_prometheus_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_asking, "_SHORTEST_INTERVAL", 0.5)
    kube, client = FakeKube(), PrometheusClient()
    with start_prometheus(tmp_path) as server:
        proxy = StrangeServer(server.url)
        proxy.token = "tok-123"
        gates = PrometheusGates(kube, client, AllowedAddresses([proxy.url]))
        gate = make_gate(
            address=proxy.url,
            query='max(cost{revision="{{revision}}"}) / max(cost{revision="aaaa"})',
            limit={"max": "1.5"},
            interval="500ms",
            timeout="500ms",
            auth={"bearerTokenSecretKeyRef": {"name": "prom", "key": "token"}},
        )
        try:
            await until(gates, gate, "Error", Reason.SECRET_MISSING)
            kube.put(
                SECRET,
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"namespace": KEY.namespace, "name": "prom"},
                    "data": {"token": base64.b64encode(b"tok-123\n").decode()},
                },
            )
            await until(gates, gate, "Error", Reason.NO_SERIES)
            server.page.text = 'cost{revision="aaaa"} 2\ncost{revision="bbbb"} 2.5\n'
            await until(gates, gate, "Passed", Reason.WITHIN_LIMIT)
            server.page.text = 'cost{revision="aaaa"} 0\ncost{revision="bbbb"} 0\n'
            found = await until(gates, gate, "Error", Reason.NOT_A_NUMBER)
            assert "NaN" in found.message
            server.page.text = 'cost{revision="aaaa"} 2\ncost{revision="bbbb"} 4\n'
            found = await until(gates, gate, "Failed", Reason.LIMIT_BROKEN)
            assert "2; allowed is at most 1.5" in found.message
        finally:
            gates.stop()
            client.close()
            proxy.close()


async def test_the_rate_of_a_canary_that_has_just_begun_is_no_reason_to_roll_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both serve alike; over five seconds the canary's rate is a tenth of stable's at first."""
    monkeypatch.setattr(prometheus_asking, "_SHORTEST_INTERVAL", 0.5)
    client = PrometheusClient()
    with start_prometheus(tmp_path) as server:
        gates = PrometheusGates(FakeKube(), client, AllowedAddresses([server.url]))
        gate = make_gate(
            address=server.url,
            query='rate(tokens_total{revision="{{revision}}"}[5s])',
            limit=None,
            compare={"minRatio": "0.6"},
            interval="500ms",
            timeout="500ms",
        )
        began, flows_from = time.monotonic(), math.inf

        async def serve() -> None:
            while True:
                now = time.monotonic()
                stable, canary = 100 * (now - began), 100 * max(0.0, now - flows_from)
                server.page.text = (
                    f'tokens_total{{revision="aaaa"}} {stable}\n'
                    f'tokens_total{{revision="bbbb"}} {canary}\n'
                )
                await asyncio.sleep(0.05)

        workers = asyncio.create_task(serve())
        try:
            await asyncio.sleep(6)
            flows_from = time.monotonic()
            early = await until(gates, gate, "Inconclusive", Reason.LIMIT_BROKEN)
            assert "the query looks back 5s, and requests flow for less than that" in early.message
            found = early
            while found.verdict != "Passed":
                found = gates.judge(observe(gate))[0]
                assert found.verdict in ("Inconclusive", "Passed"), found
                assert time.monotonic() < flows_from + 30
                await asyncio.sleep(0.1)
        finally:
            workers.cancel()
            gates.stop()
            client.close()
