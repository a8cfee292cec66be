"""Which vLLM arguments and environment variables a user may set; the lists and their check.

Arguments are an allow-list: a new vLLM version may bring a flag that loads code, and a list of
forbidden ones would let it through. Left out on purpose:

* flags that the typed fields or the launcher set (model, served name, port, host, length, dtype,
  parallelism, memory, template, middleware, shutdown time-out, revision);
* anything that runs code of the model or of a file (``--trust-remote-code``, plugins of parsers,
  connectors, executor classes, compilation passes) or reads pickles (``--load-format``);
* anything that loads a second model which the revision does not name by digest (LoRA,
  speculative models, other tokenizers), or reads local files (``--config``,
  ``--allowed-local-media-path``);
* anything that opens, closes or protects the endpoint differently from what gateway and launcher
  expect (``--api-key``, TLS, root path, several API servers), or that blinds the measurement.

Variables are a deny-list: most of them tune kernels and libraries and have no bound.
The CRD carries both lists as rules, and the launcher checks the arguments once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ALLOWED_ARGUMENTS: Final = (
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
    "--kv-cache-dtype",
    "--kv-cache-memory-bytes",
    "--limit-mm-per-prompt",
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
    "--no-async-scheduling",
    "--no-enable-chunked-prefill",
    "--no-enable-prefix-caching",
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
)
# Allowed with these values only: any other is the path of a file.
ALLOWED_ITEMS: Final = ("--generation-config=auto", "--generation-config=vllm")

FORBIDDEN_VARIABLES: Final = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "BASH_ENV",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HOME",
    "HUGGING_FACE_HUB_TOKEN",
    "PATH",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_API_KEY",
    "VLLM_CONFIGURE_LOGGING",
    "VLLM_HOST_IP",
    "VLLM_LOGGING_CONFIG_PATH",
    "VLLM_PLUGINS",
    "VLLM_PORT",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_TORCH_PROFILER_DIR",
    "VLLM_USE_MODELSCOPE",
    "VLLM_USE_RUST_FRONTEND",
)
FORBIDDEN_PREFIXES: Final = ("LD_", "LLMROLLOUTS_", "PYTHON")

VARIABLE_PATTERN: Final = "^[A-Za-z_][A-Za-z0-9_]*$"

ARGUMENT_MESSAGE: Final = (
    "this argument is not allowed: use the typed field if there is one (maxModelLen, dtype, "
    "tensorParallelSize, gpuMemoryUtilization, servedName, prompt), else one of the arguments "
    "listed in docs/api-reference.md, written --name, --name=value, or --name and the value as "
    "the next item (a value that begins with a dash needs --name=value)"
)
VARIABLE_MESSAGE: Final = (
    "this variable is not allowed: it could load code, open development endpoints, bypass the "
    "measurement or move the engine away from its port; for a model token use "
    "model.tokenSecretKeyRef, for addresses of model stores ask the operator's administrator"
)
_QUOTED = ", ".join(f"'{name}'" for name in ALLOWED_ARGUMENTS)
_QUOTED_ITEMS = ", ".join(f"'{item}'" for item in ALLOWED_ITEMS)
ARGUMENT_RULE: Final = (
    f"!self.startsWith('-') || (self.contains('=') ? self.substring(0, self.indexOf('=')) : self)"
    f" in [{_QUOTED}] || self in [{_QUOTED_ITEMS}]"
)
_QUOTED_VARIABLES = ", ".join(f"'{name}'" for name in FORBIDDEN_VARIABLES)
VARIABLE_RULE: Final = " && ".join(
    [f"!(self in [{_QUOTED_VARIABLES}])"] + [f"!self.startsWith('{p}')" for p in FORBIDDEN_PREFIXES]
)


def refuse_argument(argument: str) -> bool:
    """True for an item of ``extraArgs`` that must not reach vLLM."""
    if not argument.startswith("-") or argument in ALLOWED_ITEMS:
        return False
    return argument.partition("=")[0] not in ALLOWED_ARGUMENTS


def refuse_variable(name: str) -> bool:
    """True for the name of a variable that must not reach vLLM."""
    return name in FORBIDDEN_VARIABLES or name.startswith(FORBIDDEN_PREFIXES)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises ValueError that names the first refused argument."""
    for argument in arguments:
        if refuse_argument(argument):
            raise ValueError(f"{argument[:64]}: {ARGUMENT_MESSAGE}")
    if arguments and not arguments[0].startswith("--"):
        raise ValueError("the first item must be an argument that begins with --")
