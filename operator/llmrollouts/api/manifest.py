"""The plain form in which Kubernetes objects travel between makers and the API adapter."""

from __future__ import annotations

from typing import Any, TypeAlias

# One object as the API server reads it. The official client's typed models drop fields that they
# do not know on read-modify-write, so objects stay plain at the edges (field notes of the client).
Manifest: TypeAlias = dict[str, Any]
