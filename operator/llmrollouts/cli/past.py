"""``kubectl llm history``: the stored revisions and what happened to them; decides nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from llmrollouts.api import labels
from llmrollouts.cli.cluster import DEPLOYMENTS, Cluster, list_items
from llmrollouts.cli.columns import draw_columns
from llmrollouts.cli.picture import Picture, read_model


def read_records(cluster: Cluster, picture: Picture) -> list[Mapping[str, object]]:
    """The stored revisions, newest first. Raises Failure."""
    roles = {arm.revision: arm.role for arm in picture.arms}
    found = list_items(
        cluster,
        f"{DEPLOYMENTS}/namespaces/{picture.namespace}/controllerrevisions",
        {"labelSelector": f"{labels.DEPLOYMENT}={picture.name}"},
    )
    rows: list[tuple[int, Mapping[str, object]]] = []
    for record in found:
        metadata = record["metadata"]
        revision = str((metadata.get("labels") or {}).get(labels.REVISION, metadata["name"]))
        number = int(record.get("revision") or 0)
        rows.append(
            (
                number,
                {
                    "number": number,
                    "revision": revision,
                    "role": roles.get(revision),
                    "model": read_model(record),
                    "createdAt": metadata.get("creationTimestamp"),
                    "rejected": _read_rejection(metadata.get("annotations") or {}),
                },
            )
        )
    return [row for _, row in sorted(rows, key=lambda r: r[0], reverse=True)]


def _read_rejection(annotations: Mapping[str, str]) -> str | None:
    text = annotations.get(labels.REJECTED)
    if text is None:
        return None
    try:
        rejection = json.loads(text)
        return f"{rejection['reason']}: {rejection['message']}"
    except (ValueError, KeyError, TypeError):
        return text[:200]


def draw_history(picture: Picture, records: Sequence[Mapping[str, object]]) -> Group:
    """Both tables."""
    rows: list[list[str | Text]] = []
    for row in records:
        model = Text(str(row["model"] or "?"))
        if row["rejected"]:
            model.append(f"\nrejected: {row['rejected']}", style="red")
        rows.append(
            [
                str(row["number"]),
                str(row["revision"]),
                str(row["role"] or "-"),
                str(row["createdAt"] or "?"),
                model,
            ]
        )
    parts: list[RenderableType] = [
        draw_columns(rows, ["#", "REVISION", "ROLE", "STORED", "MODEL"], fold=True)
    ]
    events: list[list[str | Text]] = [
        [f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.revision, entry.event, entry.message]
        for entry in picture.status.history
    ]
    if events:
        headings = ["WHEN (UTC)", "REVISION", "EVENT", "MESSAGE"]
        parts.extend([Text(), draw_columns(events, headings, fold=True)])
    return Group(*parts)
