"""Where a model comes from: the five forms of ``model.uri``; decides nothing.

Every form that is fetched over a network names its content by a digest or commit or is checked
against ``checksums``; none can name a path outside of the place it points to (no ``..``).
The same patterns stand in the CRD.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_LENGTH: Final = 512

_SEGMENT: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
HF_PATTERN: Final = rf"^hf://[A-Za-z0-9][A-Za-z0-9._-]*/{_SEGMENT}@[0-9a-f]{{40}}$"
S3_PATTERN: Final = rf"^s3://[a-z0-9][a-z0-9.-]*[a-z0-9](/{_SEGMENT})+/?$"
OCI_PATTERN: Final = rf"^oci://[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/{_SEGMENT})+@sha256:[0-9a-f]{{64}}$"
PVC_PATTERN: Final = rf"^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/{_SEGMENT})*$"
FILE_PATTERN: Final = rf"^file://(/{_SEGMENT})+$"

# By scheme: the pattern, and how to mend what does not match it.
FORMS: Final[dict[str, tuple[str, str]]] = {
    "hf": (
        HF_PATTERN,
        (
            "a Hugging Face model is named hf://<org>/<name>@<commit of 40 hex digits>; a branch "
            "or tag may change under a running rollout: take the commit from the model's history"
        ),
    ),
    "s3": (S3_PATTERN, "a model in object storage is named s3://<bucket>/<path>"),
    "oci": (
        OCI_PATTERN,
        (
            "an OCI model image is named oci://<registry>/<path>@sha256:<64 hex digits>; a tag "
            "may change under a running rollout"
        ),
    ),
    "pvc": (
        PVC_PATTERN,
        "a model on a volume is named pvc://<claim>/<path>; no part may begin with a dot",
    ),
    "file": (
        FILE_PATTERN,
        "a model inside of the engine image is named file:///<path>; no part may begin with a dot",
    ),
}
UNKNOWN_FORM: Final = "a model address begins with hf://, s3://, oci://, pvc:// or file://"


@dataclass(frozen=True, slots=True)
class HubModel:
    """``repository``: org/name; ``commit``: 40 hex digits."""

    repository: str
    commit: str


@dataclass(frozen=True, slots=True)
class ObjectStoreModel:
    """``address``: the s3:// address as vLLM's streaming loader takes it."""

    address: str


@dataclass(frozen=True, slots=True)
class ImageModel:
    """``image``: an image reference by digest, without the scheme."""

    image: str


@dataclass(frozen=True, slots=True)
class VolumeModel:
    """``path``: below the root of the claim, without a leading slash; may be empty."""

    claim: str
    path: str


@dataclass(frozen=True, slots=True)
class FileModel:
    """``path``: absolute, inside of the engine's container."""

    path: str


ModelUri: TypeAlias = HubModel | ObjectStoreModel | ImageModel | VolumeModel | FileModel


def parse_model_uri(text: str) -> ModelUri:
    """Read an address. Raises ValueError with a message for people."""
    scheme, _, rest = text.partition("://")
    if scheme not in FORMS or len(text) > MAX_LENGTH:
        raise ValueError(UNKNOWN_FORM)
    pattern, message = FORMS[scheme]
    if not re.match(pattern, text) or text.endswith("\n"):
        raise ValueError(message)
    match scheme:
        case "hf":
            repository, _, commit = rest.rpartition("@")
            return HubModel(repository, commit)
        case "s3":
            return ObjectStoreModel(text)
        case "oci":
            return ImageModel(rest)
        case "pvc":
            claim, _, path = rest.partition("/")
            return VolumeModel(claim, path)
        case _:
            return FileModel(rest)
