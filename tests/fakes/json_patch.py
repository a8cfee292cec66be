"""The four operations of RFC 6902 that the operator uses, on plain objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.fakes.copies import copied


class DoesNotFit(Exception):
    """A failed ``test``, or a path that is not there: the server answers 422."""


def patch_object(document: Any, operations: Sequence[dict[str, Any]]) -> Any:
    """A patched copy; all operations or none."""
    document = copied(document)
    for operation in operations:
        _apply(document, operation)
    return document


def _apply(document: Any, operation: dict[str, Any]) -> None:
    *parents, last = _split(operation["path"])
    target = document
    for part in parents:
        target = _child(target, part)
    match operation["op"]:
        case "test":
            if _child(target, last) != operation["value"]:
                raise DoesNotFit(f"testing value {operation['path']} failed")
        case "add" if isinstance(target, list):
            target.insert(len(target) if last == "-" else int(last), operation["value"])
        case "add":
            target[last] = operation["value"]
        case "replace":
            _child(target, last)
            target[int(last) if isinstance(target, list) else last] = operation["value"]
        case "remove":
            _child(target, last)
            del target[int(last) if isinstance(target, list) else last]
        case other:
            raise DoesNotFit(f"unexpected kind: {other}")


def _split(path: str) -> list[str]:
    if not path.startswith("/"):
        raise DoesNotFit(f"path {path!r} does not begin with a slash")
    return [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def _child(target: Any, part: str) -> Any:
    try:
        return target[int(part)] if isinstance(target, list) else target[part]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DoesNotFit(f"no such path: {part}") from error
