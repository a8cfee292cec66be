"""Which vLLM flags a user may add, and the command line that starts the engine.

The operator checks `extraArgs` when the resource is applied; the launcher checks them again,
because it is the last door: a flag that runs foreign code, opens another port or unhooks the probe
must not get past it, whoever wrote the file. An allow-list of exact names, so that a new vLLM flag
is refused until someone has looked at it. Nothing here starts a process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config

# Flags made from typed fields: giving them again would silently override the field.
TYPED = {
    "--model": "model",
    "--revision": "model.revision",
    "--served-model-name": "model.servedName",
    "--max-model-len": "engine.maxModelLen",
    "--dtype": "engine.dtype",
    "--tensor-parallel-size": "engine.tensorParallelSize",
    "-tp": "engine.tensorParallelSize",
    "--gpu-memory-utilization": "engine.gpuMemoryUtilization",
    "--chat-template": "chatTemplateFile",
    "--shutdown-timeout": "shutdownTimeoutSeconds",
}

# Flags that tune speed, memory, quality or the shape of answers, and nothing else. None of them
# names code to import, a file to read, an address to contact or a door to open.
ALLOWED = frozenset(
    {
        "--async-scheduling",
        "--attention-backend",
        "--block-size",
        "--chat-template-content-format",
        "--cpu-offload-gb",
        "--cudagraph-capture-sizes",
        "--custom-histogram-buckets",
        "--default-chat-template-kwargs",
        "--disable-cascade-attn",
        "--disable-custom-all-reduce",
        "--disable-hybrid-kv-cache-manager",
        "--disable-sliding-window",
        "--enable-auto-tool-choice",
        "--enable-chunked-prefill",
        "--enable-expert-parallel",
        "--enable-force-include-usage",
        "--enable-mfu-metrics",
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        "--enable-request-id-headers",
        "--enforce-eager",
        "--generation-config",
        "--kv-cache-dtype",
        "--kv-cache-memory-bytes",
        "--limit-mm-per-prompt",
        "--load-format",
        "--long-prefill-token-threshold",
        "--max-cudagraph-capture-size",
        "--max-log-len",
        "--max-logprobs",
        "--max-num-batched-tokens",
        "--max-num-queued-reqs",
        "--max-num-queued-tokens",
        "--max-num-seqs",
        "--max-parallel-loading-workers",
        "--mm-processor-cache-gb",
        "--moe-backend",
        "--num-gpu-blocks-override",
        "--optimization-level",
        "--override-generation-config",
        "--performance-mode",
        "--pipeline-parallel-size",
        "--prefix-caching-hash-algo",
        "--quantization",
        "--reasoning-parser",
        "--safetensors-load-strategy",
        "--scheduling-policy",
        "--seed",
        "--skip-mm-profiling",
        "--stream-interval",
        "--tokenizer-mode",
        "--tool-call-parser",
        "--uvicorn-log-level",
        "-pp",
        "-q",
    }
)

# Flags whose other values would read a file or load what may hold pickled code.
VALUES = {
    "--generation-config": ("auto", "vllm"),
    "--load-format": ("fastsafetensors", "runai_streamer", "safetensors"),
}

# The tap's class, as vLLM imports it; users cannot name a middleware.
TAP = "llmrollouts_tap.Tap"

_FLAG = re.compile(r"^-{1,2}[A-Za-z]")


def _name_of(argument: str) -> str:
    """`--max_num_seqs=8` and `--compilation-config.level` name the flags before `=` and `.`."""
    name = argument.split("=", 1)[0].split(".", 1)[0]
    return name.replace("_", "-") if name.startswith("--") else name


def refused_arguments(arguments: Sequence[str]) -> str | None:
    """The first reason why these extra arguments may not be used, or None."""
    if arguments and not _FLAG.match(arguments[0]):
        return f"{arguments[0]!r} must come after a flag"
    for index, argument in enumerate(arguments):
        if _FLAG.match(argument):
            problem = _refuse_flag(argument, arguments[index + 1 : index + 2])
        else:
            problem = f"{argument!r} is not a flag" if argument.startswith("--") else None
        if problem is not None:
            return problem
    return None


def _refuse_flag(argument: str, following: Sequence[str]) -> str | None:
    name = _name_of(argument)
    if name in TYPED:
        return f"{name} is set by the field {TYPED[name]}; set it there"
    if not _is_allowed(name):
        return (
            f"{name} is not allowed: only flags that cannot load code, read files or open ports "
            "may be added (the list is in the documentation of engine arguments)"
        )
    values = VALUES.get(name)
    value = argument.split("=", 1)[1] if "=" in argument else "".join(following)
    if values is not None and value not in values:
        return f"{name} may be {' or '.join(values)}, not {value!r}"
    return None


def _is_allowed(name: str) -> bool:
    return name in ALLOWED or (name.startswith("--no-") and "--" + name[5:] in ALLOWED)


def make_serve_arguments(config: Config, *, tapped: bool) -> list[str]:
    """The arguments after the model: typed fields first, the user's last.

    tapped: whether the engine loads the tap, which needs the environment of `engine_process`.
    """
    model, engine = config.model, config.engine
    arguments = [
        "--host",
        config.listen_host,
        "--port",
        str(config.engine_port),
        "--served-model-name",
        model.served_name,
        "--dtype",
        engine.dtype,
        "--tensor-parallel-size",
        str(engine.tensor_parallel_size),
        "--shutdown-timeout",
        str(config.shutdown_timeout),
        # The idle probe asks GET /load whether anyone is being served; it is 0 without this flag.
        "--enable-server-load-tracking",
    ]
    if tapped:
        arguments += ["--middleware", TAP]
    if model.revision is not None:
        arguments += ["--revision", model.revision]
    if engine.max_model_len is not None:
        arguments += ["--max-model-len", str(engine.max_model_len)]
    if engine.gpu_memory_utilization is not None:
        arguments += ["--gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}"]
    if config.chat_template_file is not None:
        arguments += ["--chat-template", config.chat_template_file]
    if not any(_name_of(argument) == "--load-format" for argument in engine.extra_args):
        arguments += [
            "--load-format",
            "runai_streamer" if model.kind == "s3" else "safetensors",
        ]
    return [*arguments, *engine.extra_args]
