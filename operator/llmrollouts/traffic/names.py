"""Names inside the proxies: clusters, runtime keys, paths. Decides nothing.

Every name carries the deployment's uid, so that two deployments of the same name never meet, and
the revision instead of its role, so that a promotion renames nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Self

ROUTES: Final = "users"
LISTENER: Final = "users"
LAYER: Final = "shares"
# The endpoint metadata from which the answer's revision header is made.
METADATA: Final = "llmrollouts"

ClusterKind = Literal["live", "mirror"]


@dataclass(frozen=True, slots=True)
class ClusterName:
    """One cluster of one revision: for the users' own requests or for mirrored copies."""

    kind: ClusterKind
    uid: str
    revision: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.uid}/{self.revision}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for a cluster that is not ours (the bootstrap's own)."""
        match text.split("/"):
            case ["live", uid, revision]:
                return cls("live", uid, revision)
            case ["mirror", uid, revision]:
                return cls("mirror", uid, revision)
        return None


def share_key(uid: str, revision: str) -> str:
    return f"{uid}/{revision}/share"


def mirror_key(uid: str, revision: str) -> str:
    return f"{uid}/{revision}/mirror"


def base_path(namespace: str, name: str) -> str:
    """The base URL's path that users give to their OpenAI client."""
    return f"/{namespace}/{name}/v1"
