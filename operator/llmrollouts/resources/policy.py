"""What may be stored as a revision: allowed images and models, safe settings, bounded texts.

The API server cannot know all of these rules, so a spec that breaks one is answered by a condition
(SourceResolved=False) with this reason and message; nothing of it is started. Called by the state
machine before a revision is stored. Stored revisions are not checked again: a stricter rule must
not stop a revision that serves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from llmrollouts.api import engine_settings
from llmrollouts.api.model_uri import parse_model_uri
from llmrollouts.api.reasons import Reason
from llmrollouts.api.settings import OperatorSettings
from llmrollouts.api.spec import MAX_TEXT, Engine, Retrieval, Revision
from llmrollouts.resources.canonical import canonical_json

# With a dash and a revision's ten characters it leaves room for the suffixes of ReplicaSet and
# pod within the 63 characters of a host name.
MAX_NAME_LENGTH: Final = 40
NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a revision may not be used, and what to do about it."""

    reason: Reason
    message: str


def refuse_revision(
    deployment: str, revision: Revision, settings: OperatorSettings
) -> Refusal | None:
    """The first rule that ``revision`` of the LLMDeployment ``deployment`` breaks, or None."""
    return (
        _refuse_name(deployment)
        or _refuse_image(revision.engine or Engine(), settings)
        or _refuse_engine_settings(revision.engine or Engine())
        or _refuse_model(revision.model.uri, settings)
        or _refuse_retrieval(revision.retrieval)
    )


def choose_image(engine: Engine, settings: OperatorSettings) -> str | None:
    """The engine's image: the user's, else the operator's for the device; None without one."""
    if engine.image is not None:
        return engine.image
    return settings.engine_image_cpu if engine.device == "CPU" else settings.engine_image_gpu


def _refuse_name(name: str) -> Refusal | None:
    if len(name) <= MAX_NAME_LENGTH and re.fullmatch(NAME_PATTERN, name):
        return None
    return Refusal(
        Reason.NAME_TOO_LONG,
        f"the name {name[:64]!r} leaves no room for the names of its children: create it again "
        f"with at most {MAX_NAME_LENGTH} characters (lower-case letters, digits and dashes, a "
        "letter first)",
    )


def _refuse_image(engine: Engine, settings: OperatorSettings) -> Refusal | None:
    image = choose_image(engine, settings)
    if image is None:
        return Refusal(
            Reason.IMAGE_MISSING,
            f"the operator has no engine image for device {engine.device or 'GPU'}: set "
            "spec.revision.engine.image",
        )
    # A default is the administrator's own choice, and is stored with the revision as it is.
    if settings.require_digests and engine.image is not None and "@sha256:" not in image:
        return Refusal(
            Reason.IMAGE_NOT_PINNED,
            f"the image {image} is named by tag, which may change under a running rollout: name it "
            "by digest (…@sha256:…), or ask the operator's administrator to allow tags",
        )
    allowed = settings.allowed_images
    if engine.image is not None and allowed and not _begins_with(image, allowed):
        return Refusal(
            Reason.IMAGE_NOT_ALLOWED,
            f"the image {image} is not allowed by the operator's configuration; allowed are "
            f"images that begin with: {', '.join(allowed)}",
        )
    return None


def _refuse_engine_settings(engine: Engine) -> Refusal | None:
    """The CRD has the same rules; an object may be older than they are."""
    try:
        engine_settings.check_arguments(engine.extra_args or [])
    except ValueError as error:
        return Refusal(Reason.INVALID_SPEC, f"spec.revision.engine.extraArgs: {error}")
    for variable in engine.env or []:
        if engine_settings.refuse_variable(variable.name):
            return Refusal(
                Reason.INVALID_SPEC,
                f"spec.revision.engine.env {variable.name}: {engine_settings.VARIABLE_MESSAGE}",
            )
    return None


def _refuse_retrieval(retrieval: Retrieval | None) -> Refusal | None:
    """The API server does not look into it, so its size is checked here alone."""
    if retrieval is None or retrieval.config is None:
        return None
    size = len(canonical_json(retrieval.config).encode())
    if size <= MAX_TEXT:
        return None
    return Refusal(
        Reason.SOURCE_TOO_LARGE,
        f"spec.revision.retrieval.config has {size} bytes, a revision keeps at most {MAX_TEXT}: "
        "shorten it",
    )


def _refuse_model(uri: str, settings: OperatorSettings) -> Refusal | None:
    try:
        parse_model_uri(uri)
    except ValueError as error:
        return Refusal(Reason.INVALID_SPEC, f"spec.revision.model.uri: {error}")
    allowed = settings.allowed_models
    if allowed and not _begins_with(uri, allowed):
        return Refusal(
            Reason.MODEL_NOT_ALLOWED,
            f"the model {uri} is not allowed by the operator's configuration; allowed are "
            f"addresses that begin with: {', '.join(allowed)}",
        )
    return None


def _begins_with(text: str, prefixes: tuple[str, ...]) -> bool:
    """A prefix ends at a boundary: ``registry.example`` allows no ``registry.example.evil``."""
    return any(
        text == prefix
        or (text.startswith(prefix) and (prefix[-1:] in "/:@" or text[len(prefix)] in "/:@"))
        for prefix in prefixes
        if prefix
    )
