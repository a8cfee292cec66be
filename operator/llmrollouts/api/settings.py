"""What the operator's administrator decides for all LLMDeployments (the chart's values).

Pure values, handed to the makers and to the policy check; the controller reads them from its
environment once at start. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """The operator's configuration as far as it shapes the workers.

    launcher_image: the image of the init container that brings the launcher.
    engine_image_gpu, engine_image_cpu: used where ``spec.revision.engine.image`` is absent;
        None: the user must name one.
    require_digests: refuse engine images that a user names by tag.
    allowed_images: prefixes of images, such as ``registry.example/team/``; empty: all.
    allowed_models: prefixes of model addresses, such as ``hf://org/`` or ``oci://registry/``;
        empty: all.
    model_environment: variables that say where models come from (``HF_ENDPOINT``,
        ``AWS_ENDPOINT_URL``): addresses are the administrator's choice, never a user's.
    drain_seconds: how long a leaving worker waits for the gateways to forget it before SIGTERM.
    shutdown_seconds: how long vLLM may finish running requests after SIGTERM, where the spec
        does not say.
    """

    launcher_image: str
    engine_image_gpu: str | None = None
    engine_image_cpu: str | None = None
    image_pull_policy: str = "IfNotPresent"
    require_digests: bool = True
    allowed_images: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    model_environment: Mapping[str, str] = field(default_factory=dict)
    drain_seconds: int = 8
    shutdown_seconds: int = 120
