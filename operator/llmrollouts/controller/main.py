"""``llm-rollouts-operator``: flags and environment to one configuration, then the process.

Every flag has an environment variable, which is how the chart sets it. Decides nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from llmrollouts.api.settings import OperatorSettings
from llmrollouts.controller.configuration import Configuration
from llmrollouts.controller.ending import Ending, leave
from llmrollouts.controller.logs import set_up_logs
from llmrollouts.controller.operator import Operator
from llmrollouts.metrics.prometheus_address import AllowedAddresses

F = TypeVar("F", bound=Callable[..., object])


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _read_environment(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> Mapping[str, str]:
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise click.BadParameter(f"is no JSON object: {error}") from error
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise click.BadParameter('must be a JSON object of texts, such as {"HF_ENDPOINT": "…"}')
    return given


def _read_addresses(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> AllowedAddresses:
    try:
        return AllowedAddresses(_split(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _option(flag: str, variable: str, text: str, **more: Any) -> Callable[[F], F]:
    return click.option(
        flag, envvar=variable, help=text, show_default=True, show_envvar=True, **more
    )


@click.command(context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})
@_option("--pod-name", "POD_NAME", "Name of this pod.", required=True)
@_option("--pod-uid", "POD_UID", "Uid of this pod, for the lease's holder.", default="")
@_option("--namespace", "POD_NAMESPACE", "The operator's own namespace.", required=True)
@_option("--namespaces", "LLMR_NAMESPACES", "Watched namespaces, with commas; all.", default="")
@_option(
    "--kubeconfig",
    "LLMR_KUBECONFIG",
    "A kubeconfig instead of the pod's service account.",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@_option(
    "--launcher-image", "LLMR_LAUNCHER_IMAGE", "Image that brings the launcher.", required=True
)
@_option("--engine-image-gpu", "LLMR_ENGINE_IMAGE_GPU", "Default engine on GPUs.", default="")
@_option("--engine-image-cpu", "LLMR_ENGINE_IMAGE_CPU", "Default engine on CPUs.", default="")
@_option(
    "--image-pull-policy",
    "LLMR_IMAGE_PULL_POLICY",
    "For the workers' images.",
    default="IfNotPresent",
    type=click.Choice(["Always", "IfNotPresent", "Never"]),
)
@_option(
    "--require-digests/--allow-tags",
    "LLMR_REQUIRE_DIGESTS",
    "Refuse engine images named by tag.",
    default=True,
)
@_option("--allowed-images", "LLMR_ALLOWED_IMAGES", "Prefixes with commas; all.", default="")
@_option("--allowed-models", "LLMR_ALLOWED_MODELS", "Prefixes with commas; all.", default="")
@_option(
    "--allowed-prometheus",
    "LLMR_ALLOWED_PROMETHEUS",
    "Base addresses that gates may name, with commas; none.",
    default="",
    callback=_read_addresses,
)
@_option(
    "--model-environment",
    "LLMR_MODEL_ENVIRONMENT",
    "JSON object of variables that say where models come from.",
    default="{}",
    callback=_read_environment,
)
@_option(
    "--drain-seconds",
    "LLMR_DRAIN_SECONDS",
    "How long a leaving worker waits for the gateways before SIGTERM.",
    default=8,
    type=click.IntRange(0, 600),
)
@_option(
    "--shutdown-seconds",
    "LLMR_SHUTDOWN_SECONDS",
    "How long vLLM may finish its requests after SIGTERM.",
    default=120,
    type=click.IntRange(0, 86400),
)
@_option(
    "--lease", "LLMR_LEASE", "Name of the Lease that elects the leader.", default="llm-rollouts"
)
@_option(
    "--gateway-service",
    "LLMR_GATEWAY_SERVICE",
    "Service whose endpoints are the gateways.",
    default="llm-rollouts-gateway",
)
@_option("--http-port", "LLMR_HTTP_PORT", "/healthz /readyz /metrics.", default=8080, type=int)
@_option("--xds-port", "LLMR_XDS_PORT", "Where the gateways connect.", default=18000, type=int)
@_option("--rounds", "LLMR_ROUNDS", "Rounds at once.", default=16, type=click.IntRange(1, 256))
@_option(
    "--log-format",
    "LLMR_LOG_FORMAT",
    "For machines or for people.",
    default="json",
    type=click.Choice(["json", "text"]),
)
@_option(
    "--log-level",
    "LLMR_LOG_LEVEL",
    "How much is logged.",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
)
def main(log_format: Literal["json", "text"], log_level: str, **given: Any) -> None:
    """Runs the LLM Rollouts operator: one leader decides, the other replicas stand by."""
    set_up_logs(log_format, log_level)
    ending = asyncio.new_event_loop().run_until_complete(_run(make_configuration(given)))
    logging.shutdown()
    leave(ending)


async def _run(configuration: Configuration) -> Ending:
    return await Operator(configuration).run()


def make_configuration(given: Mapping[str, Any]) -> Configuration:
    """The configuration that the flags ask for."""
    workers = OperatorSettings(
        launcher_image=given["launcher_image"],
        engine_image_gpu=given["engine_image_gpu"] or None,
        engine_image_cpu=given["engine_image_cpu"] or None,
        image_pull_policy=given["image_pull_policy"],
        require_digests=given["require_digests"],
        allowed_images=_split(given["allowed_images"]),
        allowed_models=_split(given["allowed_models"]),
        model_environment=given["model_environment"],
        drain_seconds=given["drain_seconds"],
        shutdown_seconds=given["shutdown_seconds"],
    )
    return Configuration(
        pod=given["pod_name"],
        pod_uid=given["pod_uid"],
        namespace=given["namespace"],
        namespaces=_split(given["namespaces"]) or None,
        kubeconfig=given["kubeconfig"],
        workers=workers,
        lease=given["lease"],
        gateway_service=given["gateway_service"],
        allowed_prometheus=given["allowed_prometheus"],
        http_port=given["http_port"],
        xds_port=given["xds_port"],
        rounds=given["rounds"],
    )


if __name__ == "__main__":
    main()
