"""Who set which field: the part of server-side apply that the operator relies on.

Fields are written as the API server writes them (``f:name``, ``k:{...}``), so that a test can read
``managedFields``. Lists that the server merges by key are merged by key here (the table below);
all others are replaced as a whole.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

from tests.fakes.copies import copied

Fields: TypeAlias = dict[str, "Fields"]

# The last two names of a list's path ("*": an item of a keyed list) -> the keys of its items.
KEYED: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("spec", "containers"): ("name",),
    ("spec", "initContainers"): ("name",),
    ("spec", "volumes"): ("name",),
    ("*", "env"): ("name",),
    ("*", "volumeMounts"): ("mountPath",),
    ("*", "ports"): ("containerPort",),
    ("metadata", "ownerReferences"): ("uid",),
    ("status", "conditions"): ("type",),
}
# Not fields in this sense: identity, or written by the server.
UNOWNED: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
)


def fields_of(manifest: dict[str, Any], only_status: bool = False) -> Fields:
    """The fields that this manifest sets, of the main resource or of its status."""
    body = {k: v for k, v in manifest.items() if k not in ("apiVersion", "kind", "status")}
    if only_status:
        body = {"status": manifest["status"]} if "status" in manifest else {}
    elif "metadata" in body:
        body["metadata"] = {k: v for k, v in body["metadata"].items() if k not in UNOWNED}
        if not body["metadata"]:
            del body["metadata"]
    return _fields(body, ("", ""))


def changed_fields(old: Any, new: Any, parents: tuple[str, str] = ("", "")) -> Fields:
    """The fields of ``new`` that ``old`` lacks or has otherwise (bodies, not whole objects)."""
    changed: Fields = {}
    for key, value, place in _children(new, parents):
        before = _get(old, key)
        if _is_nested(value, place) and _is_nested(before, place):
            inner = changed_fields(before, value, place)
            if inner:
                changed[key] = inner
        elif before is _ABSENT or before != value:
            changed[key] = _fields(value, place)
    return changed


def merge(old: Any, new: Any, parents: tuple[str, str] = ("", "")) -> Any:
    """``old`` with what ``new`` sets: maps and keyed lists are merged, the rest is replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        merged = copied({key: value for key, value in old.items() if key not in new})
        for key, value in new.items():
            merged[key] = merge(old.get(key), value, (parents[1], key))
        return merged
    keys = _keys(parents)
    if keys and isinstance(old, list) and isinstance(new, list):
        known = {_item_key(item, keys): item for item in old}
        given = {_item_key(item, keys): item for item in new}
        # The order that the applier wants, then what others have added.
        merged_list = [
            merge(known.get(key, {}), item, (parents[1], "*")) for key, item in given.items()
        ]
        return merged_list + [copied(i) for k, i in known.items() if k not in given]
    return copied(new)


def without(fields: Fields, gone: Fields) -> Fields:
    """``fields`` less those in ``gone``; emptied branches vanish."""
    kept: Fields = {}
    for key, inner in fields.items():
        if key not in gone:
            kept[key] = inner
        elif inner and gone[key]:
            rest = without(inner, gone[key])
            if rest:
                kept[key] = rest
    return kept


def union(one: Fields, other: Fields) -> Fields:
    """The fields of either."""
    joined = dict(one)
    for key, inner in other.items():
        joined[key] = union(joined[key], inner) if key in joined else inner
    return joined


def remove_fields(value: Any, gone: Fields) -> None:
    """Take the fields out of ``value`` in place; maps emptied by it go too."""
    for key, inner in gone.items():
        child = _get(value, key)
        if child is _ABSENT:
            continue
        if inner and isinstance(child, dict | list):
            remove_fields(child, inner)
            if child:
                continue
        if isinstance(value, list):
            value.remove(child)
        else:
            del value[key.removeprefix("f:")]


_ABSENT: Final = object()


def _keys(place: tuple[str, str]) -> tuple[str, ...] | None:
    return KEYED.get(place)


def _is_nested(value: Any, place: tuple[str, str]) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and _keys(place) is not None)


def _item_key(item: dict[str, Any], keys: tuple[str, ...]) -> str:
    return "k:" + json.dumps({key: item.get(key) for key in keys}, separators=(",", ":"))


def _children(value: Any, parents: tuple[str, str]) -> list[tuple[str, Any, tuple[str, str]]]:
    if isinstance(value, dict):
        return [(f"f:{key}", item, (parents[1], key)) for key, item in value.items()]
    keys = _keys(parents) or ()
    return [(_item_key(item, keys), item, (parents[1], "*")) for item in value]


def _fields(value: Any, place: tuple[str, str]) -> Fields:
    if not _is_nested(value, place):
        return {}
    return {key: _fields(item, inner) for key, item, inner in _children(value, place)}


def _get(value: Any, key: str) -> Any:
    if key.startswith("f:") and isinstance(value, dict):
        return value.get(key[2:], _ABSENT)
    if key.startswith("k:") and isinstance(value, list):
        wanted = json.loads(key[2:])
        for item in value:
            if all(item.get(name) == value for name, value in wanted.items()):
                return item
    return _ABSENT
