"""A table whose last column gives way: names and numbers are never cut, long texts are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def draw_columns(
    rows: Sequence[Sequence[str | Text]],
    headings: Sequence[str] = (),
    *,
    fold: bool = False,
) -> Table:
    """``rows`` under ``headings`` (none: no header). The last column takes what is left of the
    width: cut with an ellipsis, or with ``fold`` on as many lines as it needs."""
    table = Table(
        box=None, show_header=bool(headings), padding=(0, 2, 0, 0), pad_edge=False,
        header_style="dim",
    )  # fmt: skip
    count = len(rows[0]) if rows else len(headings)
    for number in range(count):
        heading = headings[number] if headings else ""
        if number == count - 1:
            table.add_column(
                heading, ratio=1, no_wrap=not fold, overflow="fold" if fold else "ellipsis"
            )
        else:
            widest = max([len(heading), *(len(row[number]) for row in rows)])
            table.add_column(heading, no_wrap=True, min_width=widest)
    for row in rows:
        cells: list[RenderableType] = [c if isinstance(c, Text) else Text(c) for c in row]
        table.add_row(*cells)
    return table
