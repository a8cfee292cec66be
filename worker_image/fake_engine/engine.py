"""One fake engine: its options, its behaviour, its batch, its metrics, its drain.

`app.py` turns HTTP into calls of this class; `command.py` starts and stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

from .batch import Batch, Generation, PrefixCache, Step
from .behavior import Behavior
from .language import Voice, cut_at_stop, seed_of
from .metrics import Metrics
from .model import FakeModel
from .options import Options, load_recorded
from .protocol import ApiError, Request

log = logging.getLogger("fake_engine")

VERSION = "0.32.0"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"


@dataclass(frozen=True)
class Choice:
    """One answer of a request: all its tokens are known before the first is sent."""

    index: int
    generation: Generation
    tokens: tuple[str, ...]
    text: str | None  # the whole text when a stop string cut it, else the tokens joined
    finish_reason: str
    stop_reason: str | None
    seed: int

    def text_between(self, start: int, end: int) -> str:
        if self.text is None:
            return "".join(self.tokens[start:end])
        before = sum(len(token) for token in self.tokens[:start])
        after = sum(len(token) for token in self.tokens[:end])
        return self.text[before:after]

    async def ends_before(self, watcher: asyncio.Future[None]) -> bool:
        """Wait for the last token; False when the client has left first (``watcher``)."""
        while not self.generation.finished and not watcher.done():
            await self.generation.changed.wait()
            self.generation.changed.clear()
        return not watcher.done()


@dataclass(frozen=True)
class Fate:
    """What this request will suffer, drawn when it arrives."""

    error: bool = False
    hang: bool = False
    stream_error: bool = False
    cut: bool = False
    empty: bool = False
    garbage: bool = False


class Engine:
    """Everything behind the HTTP port."""

    def __init__(self, options: Options, model: FakeModel, behavior: Behavior) -> None:
        self.options = options
        self.model = model
        self.started_with = behavior
        self.behavior = behavior
        self.draining = False
        self.load = 0
        self._requests = 0
        self._random = random.Random(behavior.seed or None)  # noqa: S311 - faults, not secrets
        self._voice = Voice(model.words)
        blocks = 65536
        cache = PrefixCache(options.block_size, blocks) if options.prefix_caching else None
        self.metrics = Metrics(
            load_recorded()["metrics"],  # type: ignore[arg-type]  # JSON written by the recorder
            options.served_names[0],
            options.histogram_buckets,
            {
                "block_size": str(options.block_size),
                "enable_prefix_caching": str(options.prefix_caching),
                "num_gpu_blocks": str(blocks),
                "cache_dtype": "auto",
            },
        )
        self.metrics.gauge("vllm:engine_sleep_state", sleep_state="awake").set(1)
        self.batch = Batch(
            lambda: self.behavior,
            max_num_seqs=options.max_num_seqs,
            max_batched_tokens=options.max_batched_tokens,
            cache=cache,
            on_step=self._record_step,
        )
        self.fingerprint = f"vllm-{VERSION}-{seed_of(model.name, options.max_model_len):08x}"

    # -- requests -----------------------------------------------------------------------------

    def draw_fate(self, *, is_probe: bool) -> Fate:
        """Count the request and draw what happens to it; may end the process."""
        behavior = self.behavior
        self._requests += 1
        if behavior.crash or 0 < behavior.crash_after <= self._requests:
            self.crash()
        if is_probe and behavior.spare_probes:
            return Fate()
        draw = self._random.random
        return Fate(
            error=draw() < behavior.error_rate,
            hang=draw() < behavior.hang_rate,
            stream_error=draw() < behavior.stream_error_rate,
            cut=draw() < behavior.cut_rate,
            empty=draw() < behavior.empty_rate,
            garbage=draw() < behavior.garbage_rate,
        )

    def crash(self) -> None:
        log.error("Crashed on purpose with exit code %d", self.behavior.crash_code)
        os._exit(self.behavior.crash_code)

    def submit(self, request: Request, fate: Fate) -> list[Choice]:
        """Queue every choice of every prompt; ApiError when no more may come in."""
        if self.draining:
            # What vLLM 0.32 answers between SIGTERM and the end of its last request.
            raise ApiError(500, "the engine is shutting down", "InternalServerError")
        self._admit(len(request.prompts) * request.choices)
        changed = asyncio.Event()
        choices: list[Choice] = []
        for prompt_index, prompt in enumerate(request.prompts):
            for copy in range(request.choices):
                choices.append(
                    self._start(
                        request, fate, prompt, prompt_index * request.choices + copy, copy, changed
                    )
                )
        return choices

    def _admit(self, count: int) -> None:
        limit = self.options.max_queued_requests
        if limit is not None and len(self.batch.waiting) + count > limit:
            self.metrics.count("vllm:admission_rejections_total", reason="max_num_queued_reqs")
            raise ApiError(503, "the queue is full", "ServiceUnavailableError")

    def _start(
        self,
        request: Request,
        fate: Fate,
        prompt: Sequence[int],
        index: int,
        copy: int,
        changed: asyncio.Event,
    ) -> Choice:
        greedy = request.temperature == 0 or request.seed is not None
        salt = (request.seed, copy) if greedy else self._random.getrandbits(32)
        seed = seed_of(self.model.name, self.model.template_digest, tuple(prompt), salt)
        count, reason = request.max_tokens, "length"
        mean = self.behavior.mean_answer_tokens
        if mean > 0 and not request.ignore_eos:
            natural = 1 + int(random.Random(seed).expovariate(1 / mean))  # noqa: S311
            if natural <= count:
                count, reason = natural, "stop"
        if fate.empty:
            count, reason = 0, "stop"
        tokens = self._voice.say(seed, count, garbage=fate.garbage)
        text = stop_reason = None
        if request.stops:
            cut = cut_at_stop(tokens, request.stops)
            if cut is not None:
                count, text, stop_reason = cut
                tokens, reason = tokens[:count], "stop"
        generation = Generation(
            prompt,
            count,
            changed,
            finish_reason=reason,
            max_tokens=request.max_tokens,
            choices=request.choices,
            leads=copy == 0,
        )
        self.batch.submit(generation)
        return Choice(index, generation, tuple(tokens), text, reason, stop_reason, seed)

    def rival_of(self, choice: Choice) -> str:
        return self._voice.words[choice.seed % len(self._voice.words)]

    # -- the batch's reports --------------------------------------------------------------------

    def _record_step(self, step: Step) -> None:
        if step.tokens:
            self.metrics.observe("vllm:iteration_tokens_total", step.tokens)
        for generation in step.started:
            self.metrics.record_first_token(generation)
        for gap in step.gaps:
            self.metrics.observe("vllm:inter_token_latency_seconds", gap)
        generated = len(step.started) + len(step.gaps)
        if generated:
            self.metrics.count("vllm:generation_tokens_total", generated)
        for generation in step.ended:
            self.metrics.record_end(generation)

    def render_metrics(self) -> bytes:
        self.metrics.gauge(RUNNING).set(len(self.batch.running))
        self.metrics.gauge(WAITING).set(len(self.batch.waiting))
        self.metrics.gauge("vllm:kv_cache_usage_perc").set(self.batch.kv_cache_usage)
        return self.metrics.render()

    # -- the end --------------------------------------------------------------------------------

    async def drain(self) -> None:
        """After SIGTERM: finish what is in flight for `shutdown_timeout` seconds, cut the rest."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.batch.empty.wait(), self.options.shutdown_timeout)
        for generation in [*self.batch.running, *self.batch.waiting]:
            self.batch.abort(generation)
