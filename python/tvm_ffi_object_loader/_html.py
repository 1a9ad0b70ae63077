# SPDX-License-Identifier: Apache-2.0
"""Sessions and dylibs as a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from .errors import SessionClosedError

if TYPE_CHECKING:
    from .dylib import Dylib
    from .session import Session

_MOST_ROWS = 50


def _table(caption: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    shown = list(rows)
    left = len(shown) - _MOST_ROWS
    lines = [
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in shown[:_MOST_ROWS]
    ]
    if left > 0:
        lines.append(f'<tr><td colspan="{len(head)}">and {left} more</td></tr>')
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{heading}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def show_dylib(dylib: Dylib) -> str:
    """Return a table of the dylib's functions."""
    try:
        names = dylib.functions
    except SessionClosedError:
        return f"<p>{escape(repr(dylib))}</p>"
    caption = f"Dylib {dylib.name!r} of session {dylib.session.name!r}"
    return _table(caption, ("function",), ((name,) for name in names))


def show_session(session: Session) -> str:
    """Return a table of the session's dylibs."""
    if session.closed:
        return f"<p>{escape(repr(session))}</p>"
    rows = []
    for name, dylib in session.dylibs.items():
        try:
            functions = dylib.functions
        except SessionClosedError:  # by another thread, a moment ago
            continue
        more = ", ..." if len(functions) > 8 else ""
        rows.append((name, str(len(functions)), ", ".join(functions[:8]) + more))
    return _table(f"Session {session.name!r}", ("dylib", "functions", "names"), rows)
