# SPDX-License-Identifier: Apache-2.0
"""Write one HTML page that needs no other file, for light, dark and narrow windows."""

from __future__ import annotations

import html
import re

from bench.tables import Table

# Colors of the plots -> names of the page's, which know whether the page is dark.
COLORS = {
    "#0f172a": "ink",
    "#e2e8f0": "grid",
    "#c2410c": "ours",
    "#1d4ed8": "dlopen",
    "#15803d": "peer",
    "#64748b": "other",
}
CSS = """
:root { color-scheme: light dark;
        --paper: #ffffff; --ink: #0f172a; --grid: #e2e8f0; --head: #f1f5f9;
        --ours: #c2410c; --dlopen: #1d4ed8; --peer: #15803d; --other: #64748b;
        --reached: #15803d; --missed: #b91c1c; --open: #a16207; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0f172a; --ink: #e2e8f0; --grid: #334155; --head: #1e293b;
          --ours: #fb923c; --dlopen: #93b4ff; --peer: #4ade80; --other: #94a3b8;
          --reached: #4ade80; --missed: #fca5a5; --open: #facc15; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       overflow-wrap: anywhere; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; font-size: 0.87rem; }
a { color: var(--dlopen); }
.warning { border-left: 4px solid var(--open); padding: 0.25rem 0.75rem; background: var(--head); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.87rem; width: 100%; }
th, td { text-align: left; vertical-align: top; overflow-wrap: normal; padding: 0.25rem 0.6rem;
         border-bottom: 1px solid var(--grid); }
th { background: var(--head); white-space: nowrap; }
td.figure { white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.first td { border-top: 2px solid var(--grid); }
b.reached { color: var(--reached); }
b.not.reached { color: var(--missed); }
b.not.measured { color: var(--open); }
figure { margin: 1rem 0; }
figcaption { font-size: 0.87rem; color: var(--other); }
svg { width: 100%; min-width: 42rem; height: auto; display: block; }
summary { cursor: pointer; font-weight: 600; margin: 0.5rem 0; }
"""


def table(content: Table) -> str:
    """Write a table as HTML; text between double asterisks becomes bold."""
    head, lines = content
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "\n".join(
        f"<tr{' class=first' if line[0] and not lines[index - 1][0] else ''}>"
        f"{''.join(map(cell, line))}</tr>"
        for index, line in enumerate(lines)
    )
    return f'<div class="scroll"><table><tr>{top}</tr>\n{body}</table></div>'


def cell(text: str) -> str:
    """Write a table's cell; a figure with its spread stays on one line."""
    is_figure = re.fullmatch(r"[≤+-]?[\d.,]+( \S+)?( \[[^\]]*\])?", text)
    # The class is what is said: "reached", "not reached", "not measured".
    bold = r'<b class="\1">\1</b>'
    shown = re.sub(r"\*\*(.*?)\*\*", bold, html.escape(text))
    return f'<td class="figure">{shown}</td>' if is_figure else f"<td>{shown}</td>"


def plot(svg: str, caption: str = "") -> str:
    """Return a figure with the SVG in it, drawn in the page's colors; nothing for no SVG."""
    if not svg:
        return ""
    # The ids that nothing refers to are the same in each plot.
    drawn = re.sub(r' id="[a-zA-Z][\w.]*_\d+"', "", svg[svg.index("<svg") :])
    for color, name in COLORS.items():
        drawn = drawn.replace(color, f"var(--{name})")
    under = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="scroll">{drawn}</div>{under}</figure>'


def anchor(title: str) -> str:
    """Return the name by which a section is linked to."""
    return re.sub(r"\W+", "-", title.lower())


def section(
    title: str, text: str, *, images: str = "", rows: str = "", folded: bool = False
) -> str:
    """Write a section: its text, its plots, and its table, which may be folded away."""
    parts = [f'<h2 id="{anchor(title)}">{title}</h2>']
    parts += [f"<p>{html.escape(text)}</p>"] if text else []
    parts.append(images)
    if rows:
        state = "" if images else " open"
        summary = "<summary>All figures</summary>"
        parts.append(f"<details{state}>{summary}{rows}</details>" if folded else rows)
    return "\n".join(part for part in parts if part)


def page(heading: str, titles: list[str], body: str) -> str:
    """Write the whole page."""
    links = "".join(f'<a href="#{anchor(title)}">{title}</a>' for title in titles)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}: tvm-ffi-object-loader</title><style>{CSS}</style></head>\n"
        f"<body><h1>{heading}</h1><nav>{links}</nav>\n{body}</body></html>\n"
    )
