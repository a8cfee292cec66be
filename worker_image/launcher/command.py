"""The command line: `run` a worker, or `check` a launcher.json without starting anything.

Turns every way to end into an exit code and a message. The message goes to the log and to the
termination log, from where Kubernetes copies it into the pod's status; it holds the engine's last
lines, with the values of secret-looking environment variables blanked.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import VERSION
from .config import read_config
from .engine_arguments import make_serve_arguments
from .failure import Failure
from .supervisor import Supervisor

log = logging.getLogger("launcher")

TERMINATION_LOG = Path("/dev/termination-log")
TERMINATION_BYTES = 4096
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(?:^|_)KEY(?:_|$)|API_?KEY", re.I)


def blank_secrets(text: str, environment: Mapping[str, str]) -> str:
    """`text` with the values of secret-looking variables replaced by their names."""
    for name, value in environment.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, f"<{name}>")
    return text


def termination_message(reason: str, tail: str, environment: Mapping[str, str]) -> str:
    """The reason, then as much of the end of the engine's output as fits (bytes)."""
    message = blank_secrets(reason, environment)
    kept = blank_secrets(tail, environment)
    room = TERMINATION_BYTES - len(message.encode()) - 64
    encoded = kept.encode()
    if encoded and room > 0:
        if len(encoded) > room:
            encoded = encoded[-room:]
            line_end = encoded.find(b"\n")
            encoded = encoded[line_end + 1 :] if line_end != -1 else encoded
        message += "\nLast lines of the engine:\n" + encoded.decode("utf-8", "ignore")
    return message.encode()[:TERMINATION_BYTES].decode("utf-8", "ignore")


def write_termination_log(path: Path, message: str) -> None:
    """Best effort by nature: outside Kubernetes there is no such file, and then the log has it."""
    if not path.exists() and path == TERMINATION_LOG:
        return
    try:
        path.write_text(message, encoding="utf-8")
    except OSError as error:
        log.warning("Could not write %s: %s", path, error.strerror)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launcher", description="Runs one vLLM worker.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("run", "run the worker"), ("check", "check launcher.json and exit")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--config", type=Path, default=Path("/etc/llmrollouts/launcher.json"))
        command.add_argument("--termination-log", type=Path, default=TERMINATION_LOG)
    options = parser.parse_args(arguments)

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s launcher: %(message)s",
    )
    supervisor: Supervisor | None = None
    try:
        config = read_config(options.config)
        if options.command == "check":
            print(" ".join(make_serve_arguments(config, tapped=config.tap)))
            return 0

        async def live() -> int:
            nonlocal supervisor
            supervisor = Supervisor(config, dict(os.environ))
            return await supervisor.run()

        return asyncio.run(live())
    except Failure as failure:
        tail = "" if supervisor is None else supervisor.engine_tail(TERMINATION_BYTES)
        message = termination_message(failure.message, tail, os.environ)
        log.error("%s (exit code %d)", blank_secrets(failure.message, os.environ), failure.code)
        write_termination_log(options.termination_log, message)
        return failure.code
