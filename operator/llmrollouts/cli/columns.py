"""A table whose last column gives way: names and numbers are never cut, long texts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

# What the last column keeps in a narrow window: enough to see what kind of message it is.
_LAST: Final = 24


def draw_columns(
    rows: Sequence[Sequence[str | Text]],
    headings: Sequence[str] = (),
    *,
    fold: bool = False,
) -> RenderableType:
    """``rows`` under ``headings`` (none: no header). The last column takes what is left of the
    width: cut with an ellipsis, or with ``fold`` on as many lines as it needs. Where the window is
    too narrow for the others the table is wider than it."""
    shown = tuple(tuple(c if isinstance(c, Text) else Text(c) for c in row) for row in rows)
    return _Columns(shown, tuple(headings), fold)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Widths are given, not left to the table: in a window that is too narrow it takes whole
    columns out, and in a list that is the name."""

    rows: tuple[tuple[Text, ...], ...]
    headings: tuple[str, ...]
    fold: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width)
        if not widths:
            return
        table = Table(
            box=None, show_header=bool(self.headings), padding=(0, 2, 0, 0), pad_edge=False,
            header_style="dim",
        )  # fmt: skip
        for number, width in enumerate(widths):
            last = number == len(widths) - 1
            table.add_column(
                self.headings[number] if self.headings else "",
                width=width,
                no_wrap=not (last and self.fold),
                overflow="fold" if last and self.fold else "ellipsis",
            )
        for row in self.rows:
            table.add_row(*row)
        yield from console.render(table, options.update(width=sum(widths) + 2 * len(widths)))

    def _widths(self, window: int) -> list[int]:
        """Of each column, without the two blanks between them."""
        lines = [[cell_len(text) for text in self.headings]] if self.headings else []
        lines += [
            [max([cell_len(line) for line in cell.plain.splitlines()], default=0) for cell in row]
            for row in self.rows
        ]
        widths = [max(column) for column in zip(*lines, strict=True)]
        if widths:
            left = window - sum(width + 2 for width in widths[:-1])
            widths[-1] = min(widths[-1], max(left, _LAST))
        return widths
