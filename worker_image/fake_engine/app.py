"""The ASGI application: vLLM's paths, answered by hand for speed, and `/fake/faults`.

No framework: one request costs a fraction of a millisecond, so one core serves well over the 500
short answers a second that load tests of the gateway need.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from . import answers
from .behavior import BadBehavior, change
from .engine import VERSION, Choice, Engine, Fate
from .exchange import ConnectionCut, Exchange, Receive, Scope, Send
from .language import pieces_of
from .messages import MessageAnswer, answer_message, chat_body, error_body, stream_message
from .metrics import CONTENT_TYPE
from .protocol import UNREADABLE, ApiError, Request, parse_request, read_body
from .responses import Response, answer_response, completion_body, stream_response

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
GENERATING = {CHAT, COMPLETIONS, RESPONSES, MESSAGES}
# What a path asks for in its own form becomes a chat or a completion; the others are one already.
READ_AS = {RESPONSES: completion_body, MESSAGES: chat_body}
POSTS = {*GENERATING, "/tokenize"}
GETS = {"/v1/models", "/version", "/health", "/load", "/metrics", "/ping"}


@contextmanager
def _watching(exchange: Exchange, choice: Choice) -> Iterator[asyncio.Future[None]]:
    """Done once the client has left, which also wakes whoever waits for tokens."""
    watcher = asyncio.ensure_future(exchange.wait_for_disconnect())
    watcher.add_done_callback(lambda _: choice.generation.changed.set())
    try:
        yield watcher
    finally:
        watcher.cancel()


class App:
    """One engine's HTTP face."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids = itertools.count(time.time_ns() & 0xFFFFFFFF)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        path, method = scope["path"], scope["method"]
        exchange = Exchange(scope, receive, send)
        try:
            await self._route(method, path, exchange)
        except ApiError as error:
            own = path == MESSAGES and error.kind != UNREADABLE
            await exchange.answer_json(error.status, error_body(error) if own else error.body())
        finally:
            if path not in ("/metrics", "/load", "/health", "/ping", "/version"):
                self._record_http(method, path, exchange, time.perf_counter() - started)

    async def _route(self, method: str, path: str, exchange: Exchange) -> None:
        engine = self._engine
        if path == "/fake/faults":
            await self._faults(method, exchange)
        elif path in POSTS or path in GETS:
            if method not in (("POST",) if path in POSTS else ("GET", "HEAD")):
                await exchange.answer_json(
                    405,
                    {"detail": "Method Not Allowed"},
                    [(b"allow", b"POST" if path in POSTS else b"GET")],
                )
            elif path in GENERATING:
                await self._generate(exchange, path)
            elif path == "/health":
                await exchange.answer(503 if engine.behavior.unhealthy else 200, None, b"")
            elif path == "/ping":
                await exchange.answer(200, None, b"")
            elif path == "/load":
                await exchange.answer_json(200, {"server_load": engine.load})
            elif path == "/metrics":
                page = engine.render_metrics()
                await exchange.answer(200, CONTENT_TYPE.encode(), page, vary=False)
            elif path == "/version":
                await exchange.answer_json(200, {"version": VERSION})
            elif path == "/v1/models":
                options = engine.options
                await exchange.answer_json(
                    200,
                    answers.models(
                        options.served_names,
                        options.model,
                        engine.model.max_model_len,
                        int(time.time()),
                    ),
                )
            else:
                body = read_body(await exchange.body(), exchange.header(b"content-type"))
                await exchange.answer_json(200, answers.tokenized(body, engine.model.max_model_len))
        else:
            await exchange.answer_json(404, {"detail": "Not Found"})

    async def _faults(self, method: str, exchange: Exchange) -> None:
        engine = self._engine
        if method == "POST":
            try:
                settings = json.loads(await exchange.body())
                if not isinstance(settings, dict):
                    raise BadBehavior("the body must be a JSON object of settings")
                engine.behavior = change(engine.behavior, settings)
            except ValueError as error:
                await exchange.answer_json(400, {"error": str(error)})
                return
        elif method == "DELETE":
            engine.behavior = engine.started_with
        await exchange.answer_json(200, dataclasses.asdict(engine.behavior))
        if engine.behavior.crash:
            engine.crash()

    # -- generation -----------------------------------------------------------------------------

    async def _generate(self, exchange: Exchange, path: str) -> None:
        engine = self._engine
        body = await exchange.body()
        engine.load += engine.options.load_tracking
        choices: list[Choice] = []
        try:
            content = read_body(body, exchange.header(b"content-type"))
            read = READ_AS.get(path)
            request = parse_request(
                read(content) if read is not None else content,
                is_chat=path in (CHAT, MESSAGES),
                served_names=engine.options.served_names,
                max_model_len=engine.model.max_model_len,
            )
            fate = engine.draw_fate(is_probe=bool(exchange.header(b"x-llmrollouts-probe")))
            if fate.error:
                raise ApiError(
                    engine.behavior.error_status, "failed on purpose", "InternalServerError"
                )
            if fate.hang:
                await exchange.wait_for_disconnect()
                return
            choices = engine.submit(request, fate)
            if path == RESPONSES:
                await self._respond(exchange, request, fate, choices[0])
            elif path == MESSAGES:
                await self._answer_message(exchange, request, fate, choices[0])
            else:
                await self._answer(exchange, request, fate, choices)
        finally:
            engine.load -= engine.options.load_tracking
            for choice in choices:
                engine.batch.abort(choice.generation)

    async def _answer(
        self, exchange: Exchange, request: Request, fate: Fate, choices: list[Choice]
    ) -> None:
        prefix = "chatcmpl" if request.is_chat else "cmpl"
        request_id = f"{prefix}-{next(self._ids):016x}"
        style = answers.Style(
            is_chat=request.is_chat,
            request_id=request_id,
            created=int(time.time()),
            model=request.model,
            fingerprint=self._engine.fingerprint,
        )
        headers = (
            [(b"x-request-id", request_id.encode())]
            if self._engine.options.request_id_headers
            else []
        )
        with _watching(exchange, choices[0]) as watcher:
            if request.stream:
                await self._stream(exchange, watcher, request, fate, choices, style, headers)
            else:
                await self._answer_whole(exchange, watcher, request, choices, style, headers)

    async def _answer_whole(
        self,
        exchange: Exchange,
        watcher: asyncio.Future[None],
        request: Request,
        choices: list[Choice],
        style: answers.Style,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        changed = choices[0].generation.changed
        while not all(choice.generation.finished for choice in choices):
            await changed.wait()
            changed.clear()
            if watcher.done():
                return
        prompt_tokens = sum(len(prompt) for prompt in request.prompts)
        completion_tokens = sum(choice.generation.generated for choice in choices)
        shown = [self._whole_choice(request, choice, style) for choice in choices]
        used = answers.full_usage(prompt_tokens, completion_tokens)
        prompt_logprobs = self._prompt_logprobs(request, choices[0]) if request.is_chat else None
        await exchange.answer_json(200, style.answer(shown, used, prompt_logprobs), headers)

    def _whole_choice(
        self, request: Request, choice: Choice, style: answers.Style
    ) -> dict[str, object]:
        text = choice.text_between(0, choice.generation.generated)
        prompt_text = request.prompt_texts[choice.index // request.choices]
        logprobs = None
        if request.logprobs is not None:
            logprobs = style.logprobs(
                choice.tokens[: choice.generation.generated],
                choice.seed,
                0,
                request.logprobs,
                len(prompt_text) if request.echo else 0,
                self._engine.rival_of(choice),
            )
        return style.choice(
            choice.index,
            (prompt_text if request.echo else "") + text,
            "abort" if choice.generation.aborted else choice.finish_reason,
            choice.stop_reason,
            logprobs,
            None if request.is_chat else self._prompt_logprobs(request, choice),
        )

    def _prompt_logprobs(self, request: Request, choice: Choice) -> list[object] | None:
        if request.prompt_logprobs is None:
            return None
        position = choice.index // request.choices
        return answers.prompt_logprobs(
            request.prompts[position], pieces_of(request.prompt_texts[position]), choice.seed
        )

    async def _stream(
        self,
        exchange: Exchange,
        watcher: asyncio.Future[None],
        request: Request,
        fate: Fate,
        choices: list[Choice],
        style: answers.Style,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        prompt_tokens = sum(len(prompt) for prompt in request.prompts)
        sent = [0] * len(choices)
        ended = [False] * len(choices)
        changed = choices[0].generation.changed
        started = False
        while not all(ended):
            await changed.wait()
            changed.clear()
            if watcher.done():
                return
            parts: list[bytes] = []
            if not started:
                started = True
                await exchange.start(200, answers.EVENT_STREAM, headers)
                if request.is_chat:
                    parts += [answers.event(style.role_chunk(choice.index)) for choice in choices]
            for position, choice in enumerate(choices):
                generation = choice.generation
                if ended[position] or (
                    generation.generated == sent[position] and not generation.finished
                ):
                    continue
                ended[position] = generation.finished
                last = all(ended) and not request.include_usage
                used = (
                    answers.usage(prompt_tokens, sum(one.generation.generated for one in choices))
                    if request.continuous_usage
                    else None
                )
                parts.append(
                    answers.event(
                        self._chunk(request, choice, sent[position], style, last=last, used=used)
                    )
                )
                sent[position] = generation.generated
            await exchange.send_part(b"".join(parts))
            if fate.cut:
                raise ConnectionCut("cut on purpose")
            if fate.stream_error:
                error = ApiError(500, "failed in mid-stream on purpose", "InternalServerError")
                await exchange.send_part(answers.event(error.body()) + answers.DONE)
                await exchange.finish()
                return
        tail = answers.DONE
        if request.include_usage:
            used = answers.usage(prompt_tokens, sum(sent))
            tail = answers.event(style.usage_chunk(used)) + tail
        await exchange.send_part(tail)
        await exchange.finish()

    def _chunk(
        self,
        request: Request,
        choice: Choice,
        start: int,
        style: answers.Style,
        *,
        last: bool,
        used: dict[str, object] | None,
    ) -> dict[str, object]:
        generation = choice.generation
        end = generation.generated
        text = choice.text_between(start, end)
        if request.echo and start == 0:
            text = request.prompt_texts[choice.index // request.choices] + text
        finish_reason = None
        if generation.finished:
            finish_reason = "abort" if generation.aborted else choice.finish_reason
        logprobs = None
        if request.logprobs is not None:
            logprobs = style.logprobs(
                choice.tokens[start:end],
                choice.seed,
                start,
                request.logprobs,
                sum(len(token) for token in choice.tokens[:start]),
                self._engine.rival_of(choice),
            )
        return style.text_chunk(
            choice.index,
            text,
            finish_reason,
            choice.stop_reason if generation.finished else None,
            logprobs,
            last_of_stream=last,
            used=used,
        )

    async def _respond(
        self, exchange: Exchange, request: Request, fate: Fate, choice: Choice
    ) -> None:
        response = Response(
            number=next(self._ids),
            created=int(time.time()),
            model=request.model,
            prompt_tokens=len(request.prompts[0]),
            max_tokens=request.max_tokens,
        )
        with _watching(exchange, choice) as watcher:
            if request.stream:
                await stream_response(exchange, watcher, fate, choice, response)
            else:
                await answer_response(exchange, watcher, choice, response)

    async def _answer_message(
        self, exchange: Exchange, request: Request, fate: Fate, choice: Choice
    ) -> None:
        answer = MessageAnswer(
            request_id=f"chatcmpl-{next(self._ids):016x}",
            model=request.model,
            prompt_tokens=len(request.prompts[0]),
        )
        with _watching(exchange, choice) as watcher:
            if request.stream:
                await stream_message(exchange, watcher, fate, choice, answer)
            else:
                await answer_message(exchange, watcher, choice, answer)

    # -- the API server's own metrics -------------------------------------------------------------

    def _record_http(self, method: str, path: str, exchange: Exchange, seconds: float) -> None:
        metrics = self._engine.metrics
        handler = path if path in POSTS or path in GETS else "none"
        status = f"{exchange.status // 100}xx"
        metrics.count("http_requests_total", handler=handler, method=method, status=status)
        metrics.observe("http_request_size_bytes", exchange.received, handler=handler)
        metrics.observe("http_response_size_bytes", exchange.sent, handler=handler)
        metrics.observe("http_request_duration_highr_seconds", seconds)
        metrics.observe("http_request_duration_seconds", seconds, handler=handler, method=method)
