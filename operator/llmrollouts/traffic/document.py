"""A configuration resource of the proxies in the form of their YAML, before serialization."""

from __future__ import annotations

from typing import TypeAlias

Document: TypeAlias = dict[str, object]


def typed(type_name: str, **fields: object) -> Document:
    """A resource inside an ``Any``: the fields and the name of their message type."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}
