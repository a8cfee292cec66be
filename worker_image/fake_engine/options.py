"""Reads the command line as vLLM's own parser would: same flags, same refusals.

The known flags and whether they take values come from `recorded.json`, which the contract
recorder writes from the real `vllm serve --help=all`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .behavior import ARGUMENT_PREFIX


class BadOptions(ValueError):
    """The command line is not one that vLLM would accept."""


@dataclass(frozen=True)
class Options:
    """The flags that the fake engine acts upon; the others are only checked for existence."""

    model: str
    host: str
    port: int
    served_names: tuple[str, ...]
    max_model_len: int | None
    max_num_seqs: int
    max_batched_tokens: int
    max_queued_requests: int | None
    block_size: int
    prefix_caching: bool
    load_tracking: bool
    request_id_headers: bool
    middleware: tuple[str, ...]
    shutdown_timeout: int
    chat_template: str | None
    histogram_buckets: dict[str, list[float]]
    access_log: bool
    fake: dict[str, object]


def load_recorded() -> dict[str, dict[str, object]]:
    """The recorded facts about the real engine: its flags and its metric families."""
    path = Path(__file__).parent / "recorded.json"
    recorded: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return recorded


def parse_options(arguments: Sequence[str]) -> Options:
    """`vllm serve MODEL [flags]`; `BadOptions` for what vLLM would refuse."""
    if not arguments or arguments[0] != "serve":
        raise BadOptions("the only command of the fake engine is: vllm serve MODEL [flags]")
    given, fake, positional = _split(list(arguments[1:]), load_recorded()["flags"])
    if len(positional) > 1:
        raise BadOptions(f"unrecognized arguments: {' '.join(positional[1:])}")
    model = positional[0] if positional else _last(given, "--model", "")
    if not model:
        raise BadOptions("no model is given")
    return Options(
        model=model,
        host=_last(given, "--host", "0.0.0.0"),
        port=_number(given, "--port", 8000),
        served_names=tuple(given.get("--served-model-name", [])) or (model,),
        max_model_len=_number(given, "--max-model-len", 0) or None,
        max_num_seqs=_number(given, "--max-num-seqs", 256),
        max_batched_tokens=_number(given, "--max-num-batched-tokens", 2048),
        max_queued_requests=_number(given, "--max-num-queued-reqs", 0) or None,
        block_size=_number(given, "--block-size", 16),
        prefix_caching="--no-enable-prefix-caching" not in given,
        load_tracking="--enable-server-load-tracking" in given,
        request_id_headers="--enable-request-id-headers" in given,
        middleware=tuple(given.get("--middleware", [])),
        shutdown_timeout=_number(given, "--shutdown-timeout", 0),
        chat_template=_last(given, "--chat-template", "") or None,
        histogram_buckets=_buckets(_last(given, "--custom-histogram-buckets", "{}")),
        access_log="--disable-uvicorn-access-log" not in given
        and _last(given, "--uvicorn-log-level", "info") in ("info", "debug", "trace"),
        fake=fake,
    )


def _split(
    arguments: list[str], flags: dict[str, object]
) -> tuple[dict[str, list[str]], dict[str, object], list[str]]:
    given: dict[str, list[str]] = {}
    fake: dict[str, object] = {}
    positional: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("-"):
            positional.append(argument)
            continue
        name, equals, inline = argument.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name.startswith(ARGUMENT_PREFIX):
            value: object = inline if equals else _pop_value(arguments, default="true")
            fake[name[len(ARGUMENT_PREFIX) :]] = value
            continue
        kind = flags.get(name) or ("one" if flags.get(name.split(".")[0]) == "one" else None)
        if kind is None:
            raise BadOptions(f"unrecognized arguments: {name}")
        given.setdefault(name, []).extend(
            _take_values(name, str(kind), inline if equals else None, arguments)
        )
    return given, fake, positional


def _take_values(name: str, kind: str, inline: str | None, arguments: list[str]) -> list[str]:
    """The values of one flag; what follows it is taken out of `arguments`."""
    if kind == "none":
        if inline is not None:
            raise BadOptions(f"argument {name}: ignored explicit argument {inline!r}")
        return []
    if inline is not None:
        return [inline]
    values: list[str] = []
    while arguments and (kind == "many" or not values):
        value = _pop_value(arguments, default="")
        if not value:
            break
        values.append(value)
    if not values:
        raise BadOptions(f"argument {name}: expected at least one argument")
    return values


def _pop_value(arguments: list[str], default: str) -> str:
    if arguments and (not arguments[0].startswith("-") or arguments[0][1:2].isdigit()):
        return arguments.pop(0)
    return default


def _last(given: dict[str, list[str]], name: str, default: str) -> str:
    values = given.get(name)
    return values[-1] if values else default


def _number(given: dict[str, list[str]], name: str, default: int) -> int:
    text = _last(given, name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise BadOptions(f"argument {name}: invalid int value: {text!r}") from error


def _buckets(text: str) -> dict[str, list[float]]:
    try:
        content = json.loads(text)
        return {str(name): [float(bound) for bound in bounds] for name, bounds in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadOptions(f"argument --custom-histogram-buckets: {error}") from error
