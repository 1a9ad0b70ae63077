# SPDX-License-Identifier: Apache-2.0
"""Tables for people: on a terminal with rich, where that is installed, and plain text otherwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows under a title. Without column names, the first column names the second."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def clean(text: str) -> str:
    """Return a text of a file as it may be shown: a terminal is to obey nothing in it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def write(tables: Sequence[Table]) -> None:
    """Print tables.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    if sys.stdout.isatty():
        try:
            _write_rich(tables)
            return
        except ImportError:
            pass
    for number, table in enumerate(tables):
        lines = [*([table.columns] if table.columns else []), *table.rows]
        rows = [tuple(map(clean, line)) for line in lines]
        # The last column is as wide as it likes.
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
        indent = "  " if table.title else ""
        if table.title:
            print("" if number == 0 else "\n", clean(table.title), sep="")
        for row in rows:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            print(indent + "  ".join([*padded, row[-1]]).rstrip())


def _write_rich(tables: Sequence[Table]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    for table in tables:
        shown = RichTable(
            title=Text(clean(table.title)) if table.title else None,
            title_justify="left",
            title_style="bold",
            show_header=bool(table.columns),
            box=box.SIMPLE,
        )
        for number in range(len(table.rows[0]) if table.rows else len(table.columns)):
            header = table.columns[number] if table.columns else ""
            shown.add_column(header, overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(clean(cell)) for cell in row))
        console.print(shown)
