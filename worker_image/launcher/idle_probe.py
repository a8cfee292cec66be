"""Notices an engine that lives but no longer generates, which `/health` does not see.

The rule, and what it costs:

* Each `interval` (1 s) the launcher asks `GET /load`, a counter in the API server (measured at
  about 1 ms with the connection, no look into the engine).
* **Idle** (load 0): it generates one token. That is DESIGN's promise; on an idle engine it costs
  nobody anything.
* **Busy** (load above 0): the users' own requests exercise the engine, so the probe comes only
  each `busy_interval` (5 s), or each `interval` while failures are being counted. One request of
  one token in a running batch costs one or two milliseconds of the API server's loop, against
  16-68 ms for a page of `/metrics`.
* While busy, a probe that **times out** (or is turned away by a full queue, 429 or 503) is not yet
  a failure: under overload it waits behind the users' requests, and taking an overloaded worker
  out of service would push its load onto the others. So only then the launcher reads `/metrics`
  twice, one second apart, and compares the counters that only a working engine moves. If they
  moved, the engine is slow, not hung, and the probe counts as passed.
* Any other bad answer (refused, 5xx, no token) is a failure at once.

`failures` in a row make the worker not ready, one success makes it ready again. vLLM's `/load` may
stay above 0 for ever after clients left in mid-stream; that only makes the probe less frequent.
All requests of the launcher carry the header `x-llmrollouts-probe` with a token that nobody else
knows, so that no measurement takes them for users, nor users for them.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

from .config import Config, IdleProbe
from .http_client import RequestFailed, RequestTimedOut, request

PROBE_HEADER = "x-llmrollouts-probe"
PROGRESS_PAUSE_SECONDS = 1.0
OVERLOADED = (429, 503)

# Counters and gauges that only a step of the engine changes; arrivals do not move them.
_PROGRESS = re.compile(
    r"^vllm:(?:generation_tokens_total|prompt_tokens_total|iteration_tokens_total_count"
    r"|kv_cache_usage_perc|request_success_total)\{[^}]*\} \S+$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class ProbeResult:
    """`passed` by a token, or by `progress` alone; `latency` in seconds of the probe itself."""

    passed: bool
    latency: float
    progress: bool = False
    error: str = ""


def should_probe(load: int | None, since_last: float, failures: int, settings: IdleProbe) -> bool:
    """Whether to generate a token now; `load` is None when the engine does not tell."""
    return load in (0, None) or failures > 0 or since_last >= settings.busy_interval


def progress_signature(metrics: str) -> tuple[str, ...]:
    """The lines of a /metrics page that change when, and only when, the engine works."""
    return tuple(sorted(_PROGRESS.findall(metrics)))


class EngineClient:
    """Asks the engine on the container's own address."""

    def __init__(self, config: Config, token: str) -> None:
        self._headers = {PROBE_HEADER: token}
        wildcard = config.listen_host in ("0.0.0.0", "::", "")
        self._host = "127.0.0.1" if wildcard else config.listen_host
        if config.listen_host == "::":
            self._host = "::1"
        self._port = config.engine_port
        self._served_name = config.model.served_name

    async def is_healthy(self, timeout: float) -> bool:
        try:
            answer = await request(
                self._host, self._port, "/health", timeout=timeout, headers=self._headers
            )
        except RequestFailed:
            return False
        return answer.status == 200

    async def load(self, timeout: float) -> int | None:
        """Requests being served now; None when this engine has no such page."""
        answer = await request(
            self._host, self._port, "/load", timeout=timeout, headers=self._headers
        )
        if answer.status != 200:
            return None
        content = answer.json()
        value = content.get("server_load") if isinstance(content, dict) else None
        return value if isinstance(value, int) else None

    async def generate(self, max_tokens: int, timeout: float, *, logprobs: bool = False) -> int:
        """Generate for a fixed prompt; the status code, or RequestFailed without a token."""
        answer = await request(
            self._host,
            self._port,
            "/v1/completions",
            timeout=timeout,
            headers=self._headers,
            body={
                "model": self._served_name,
                "prompt": "hello",
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "logprobs": 1 if logprobs else None,
            },
        )
        if answer.status == 200 and count_tokens(answer.json()) < 1:
            raise RequestFailed("the engine answered without a single token")
        return answer.status

    async def metrics(self, timeout: float) -> str:
        """The engine's own page of metrics."""
        answer = await request(self._host, self._port, "/metrics", timeout=timeout)
        if answer.status != 200:
            raise RequestFailed(f"/metrics answered {answer.status}")
        return answer.body.decode("utf-8", "replace")

    async def progress(self, timeout: float) -> tuple[str, ...]:
        return progress_signature(await self.metrics(timeout))


def count_tokens(completion: object) -> int:
    """`usage.completion_tokens` of a completion; 0 when it is not there."""
    usage = completion.get("usage") if isinstance(completion, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


async def probe(engine: EngineClient, timeout: float, *, idle: bool) -> ProbeResult:
    """One probe by the rule above; never raises for what the engine does."""
    started = time.monotonic()
    try:
        status = await engine.generate(1, timeout)
        if status == 200:
            return ProbeResult(True, time.monotonic() - started)
        error = f"the engine answered {status}"
        overloaded = status in OVERLOADED
    except RequestTimedOut as failure:
        error, overloaded = str(failure), True
    except RequestFailed as failure:
        error, overloaded = str(failure), False
    latency = time.monotonic() - started
    if overloaded and not idle and await _makes_progress(engine, timeout):
        return ProbeResult(True, latency, progress=True)
    return ProbeResult(False, latency, error=error)


async def _makes_progress(engine: EngineClient, timeout: float) -> bool:
    try:
        before = await engine.progress(timeout)
        await asyncio.sleep(PROGRESS_PAUSE_SECONDS)
        after = await engine.progress(timeout)
    except RequestFailed:
        return False
    return before != after
