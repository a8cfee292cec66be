"""``kubectl llm history``: the stored revisions and what happened to them; decides nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmrollouts.api import labels
from llmrollouts.cli.cluster import DEPLOYMENTS, Cluster, list_items
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
    revisions = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("#", "REVISION", "ROLE", "STORED"):
        revisions.add_column(heading, no_wrap=True)
    revisions.add_column("MODEL", overflow="fold", ratio=1)
    for row in records:
        rejected = row["rejected"]
        model = Text(str(row["model"] or "?"))
        if rejected:
            model.append(f"\nrejected: {rejected}", style="red")
        revisions.add_row(
            str(row["number"]), str(row["revision"]), str(row["role"] or "-"),
            str(row["createdAt"] or "?"), model,
        )  # fmt: skip
    events = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("WHEN (UTC)", "REVISION", "EVENT"):
        events.add_column(heading, no_wrap=True)
    events.add_column("MESSAGE", overflow="fold", ratio=1)
    for entry in picture.status.history:
        events.add_row(
            f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.revision, entry.event, Text(entry.message)
        )
    parts: list[RenderableType] = [revisions]
    if picture.status.history:
        parts.extend([Text(), events])
    return Group(*parts)
