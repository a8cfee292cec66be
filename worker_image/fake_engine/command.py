"""`vllm serve MODEL ...`: starts the fake engine, and stops it as vLLM stops.

On SIGTERM the port stays open and `/health` goes on answering 200 while requests in flight finish
(for `--shutdown-timeout` seconds, 0 = cut at once); new requests are refused with 500, as vLLM
0.32 does. The exit code is 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import cast

import uvicorn
import uvloop

from .app import App
from .behavior import BadBehavior, Behavior, change, read_environment
from .engine import Engine
from .exchange import Application, Receive, Scope, Send
from .model import FakeModel, ModelMissing, load_model
from .options import BadOptions, Options, parse_options

log = logging.getLogger("fake_engine")

CLOSE_SECONDS = 2


class Server(uvicorn.Server):
    """Leaves signals to this module."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def wrap_in_middleware(app: Application, names: Sequence[str]) -> Application:
    """Apply `--middleware module.Class` in order, the last one outermost; classes only."""
    for name in names:
        module_name, _, class_name = name.rpartition(".")
        try:
            middleware: object = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise BadOptions(f"argument --middleware: cannot import {name}: {error}") from error
        if not inspect.isclass(middleware):
            raise BadOptions(f"argument --middleware: {name} must be a class")
        app = cast("Callable[[Application], Application]", middleware)(app)
    return app


async def serve(options: Options, model: FakeModel, behavior: Behavior) -> int:
    """Run until SIGTERM, then drain; the exit code."""
    engine = Engine(options, model, behavior)
    app = wrap_in_middleware(App(engine), options.middleware)

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    server = Server(
        uvicorn.Config(
            asgi,
            host=options.host,
            port=options.port,
            lifespan="off",
            log_level="info" if options.access_log else "warning",
            access_log=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
            backlog=2048,
        )
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if not engine.behavior.ignore_sigterm:
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    core = asyncio.ensure_future(engine.batch.run())
    serving = asyncio.ensure_future(server.serve())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([serving, stopping, core], return_when=asyncio.FIRST_COMPLETED)
    if core.done():
        core.result()
    if stop.is_set():
        log.info("Began to shut down, %d requests in flight", engine.batch.unfinished)
        await engine.drain()
        server.should_exit = True
    await serving
    for task in (core, stopping):
        task.cancel()
    return 0 if server.started else 1


def main(arguments: Sequence[str]) -> int:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(asctime)s %(message)s"
    )
    try:
        options = parse_options(arguments)
    except BadOptions as error:
        print(f"vllm: error: {error}", file=sys.stderr)
        return 2
    try:
        model = load_model(options.model, options.max_model_len, options.chat_template)
        behavior = Behavior()
        for settings in (model.settings, read_environment(os.environ), options.fake):
            behavior = change(behavior, settings)
    except (ModelMissing, BadBehavior, OSError) as error:
        log.error("Could not start: %s", error)
        return 1
    if behavior.start_seconds:
        log.info("Loading the model for %g s", behavior.start_seconds)
        time.sleep(behavior.start_seconds)
    if behavior.fail_start:
        log.error("Failed to start on purpose")
        return 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(options, model, behavior))
    except BadOptions as error:
        print(f"vllm: error: {error}", file=sys.stderr)
        return 2
