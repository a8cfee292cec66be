"""One text for equal values: how sources and templates are stored and compared; decides nothing."""

from __future__ import annotations

import json
from typing import Any

from llmrollouts.api.manifest import Manifest


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and without spaces; equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_source(revision: Manifest) -> str:
    """The identity of ``spec.revision``: what the user gave, without any default.

    ``revision`` is the part of the manifest itself, never a parsed and dumped model: what a newer
    operator adds by itself must not look like a new revision.
    """
    return canonical_json(revision)
