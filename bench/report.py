# SPDX-License-Identifier: Apache-2.0
"""Turn the benchmarks' JSON into a report: Markdown, and one HTML page that needs no other file.

``python -m bench.report results.json [older.json] [--callgrind counts.json] [--output FOLDER]``
"""

from __future__ import annotations

import argparse
import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import figure, number, ratio, verdict
from bench.peers import OURS
from bench.targets import CALLGRIND, TARGETS

Rows = dict[str, dict[str, Any]]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
METHOD = (
    "The competitors of a row take turns: each round takes one sample of every one of them, in a "
    "random order, with Python's garbage collector off. A figure is the median over the rounds, "
    "with the quartiles in brackets. A ratio is this package's sample divided by the other's of "
    "the same round, again as median and quartiles; below 1 this package is faster or smaller. "
    "A sample of a call is the mean of about 1 ms of calls, loop included; a sample of a load is "
    "the mean of up to 20 loads, each looked up and called once, unloading not timed. Imports, "
    "memory, threads and modules that pile up are measured in a fresh process a sample."
)
COMPARED = "Two commits compared"
SECTIONS = (
    ("Calls", ("call/",)),
    ("Loads", ("load/", "llvm/")),
    ("Against a linker", ("link/",)),
    ("Sessions, imports, memory, sizes", ("session/", "import/", "memory/", "size/")),
    ("Threads and many modules", ("threads/", "long/")),
    ("Growth curves", ("growth/",)),
)


def read(path: Path) -> tuple[dict[str, Any], Rows]:
    """Read pytest-benchmark's JSON.

    Parameters
    ----------
    path
        The file that ``--benchmark-json`` wrote.

    Returns
    -------
    tuple
        The whole document, and row key -> record.

    Raises
    ------
    ValueError
        If it holds no row of these benchmarks.
    """
    document: dict[str, Any] = json.loads(path.read_text())
    infos = [entry["extra_info"] for entry in document.get("benchmarks", [])]
    rows = {info["row"]: info for info in infos if "row" in info}
    if not rows:
        raise ValueError(f"{path}: no row of bench/ in it; was it written by pytest bench/?")
    return document, rows


def targets_table(rows: Rows) -> Table:
    """Return each target with its ratio and verdict."""
    lines = []
    for target in TARGETS:
        found = verdict(target, rows)
        shown = f"**{found.word}**" + (f": {found.why}" if found.why else "")
        lines.append([target.title, target.against, f"≤{target.reach:g}", found.value, shown])
    return ("", "against", "reach", "measured", "verdict"), lines


def rows_table(rows: Rows, prefixes: Sequence[str]) -> Table:
    """Return every figure of the rows whose keys begin with one of the prefixes."""
    lines = []
    for key, row in rows.items():
        if not key.startswith(tuple(prefixes)):
            continue
        first = key
        for name, spread in row["competitors"].items():
            over = row["ratios"].get(name)
            shown = ratio(over) if over else ""
            lines.append([first, name, figure(spread, row["unit"]), str(spread["n"]), shown])
            first = ""
        for name, reason in row["absent"].items():
            lines.append([first, name, reason.splitlines()[0], "", ""])
            first = ""
    return ("row", "competitor", "median [quartiles]", "rounds", "ratio to it"), lines


def machine_table(document: Mapping[str, Any]) -> Table:
    """Return machine, versions, commit and options."""
    machine, commit = document["machine_info"], document["commit_info"]
    bench = machine["bench"]
    clean = "" if not commit.get("dirty") else ", with uncommitted changes"
    lines = [
        ["commit", f"{commit.get('id') or 'none'}{clean}"],
        ["measured", document["datetime"][:16].replace("T", " ") + " UTC"],
        ["options", ", ".join(f"--{name}" for name in bench["options"]) or "none"],
        ["processor", f"{machine['cpu'].get('brand_raw', '?')}, {bench['cores']} cores used"],
        ["system", f"{machine['system']} {'.'.join(machine['release'].split('.')[:2])}"],
        ["Python", f"{machine['python_implementation']} {machine['python_version']}"],
        *([name, version] for name, version in bench["versions"].items()),
    ]
    return ("", ""), lines


def callgrind_table(counts: Mapping[str, Mapping[str, float | str]]) -> Table:
    """Return the instruction counts of ``bench.callgrind``."""
    lines = []
    for operation, by_name in counts.items():
        other, _ = CALLGRIND[operation]
        ours, theirs = by_name[OURS], by_name[other]
        for name, value in by_name.items():
            if not isinstance(value, (int, float)):
                lines.append([operation, name, value, ""])
                continue
            # Fewer than a process's start varies by; they would be noise.
            shown = f"{value:,.0f}" if value > 0 else "too few to tell"
            over = ""
            if (
                name == other
                and isinstance(ours, (int, float))
                and isinstance(theirs, (int, float))
            ):
                over = number(ours / theirs)
            lines.append([operation, name, shown, over])
    return ("operation", "way", "instructions", "this package's ratio to it"), lines


def comparison_table(rows: Rows, older: Rows) -> Table:
    """Return this package's figures of two commits, bare and relative to what doesn't change.

    The change in the ratio to a competitor is the one to trust where the machine differs.
    """
    lines = []
    for key, row in rows.items():
        now = row["competitors"].get(row["subject"])
        then = older.get(key, {}).get("competitors", {}).get(row["subject"])
        if not now or not then:
            continue
        apart = now["q1"] > then["q3"] or now["q3"] < then["q1"]
        change = f"{now['median'] / then['median'] - 1:+.0%}" + (
            "" if apart else " (in the spread)"
        )
        against = next((n for n in row["ratios"] if n in older[key]["ratios"]), None)
        relative = ["", "", ""]
        if against:
            new, old = row["ratios"][against], older[key]["ratios"][against]
            relative = [f"{ratio(old)} of {against}", ratio(new)]
            relative.append(f"{new['median'] / old['median'] - 1:+.0%}")
        figures = [figure(then, row["unit"]), figure(now, row["unit"]), change]
        lines.append([key, *figures, *relative])
    return ("row", "older", "newer", "change", "older ratio", "newer ratio", "change"), lines


def markdown(table: Table) -> str:
    """Write a table as Markdown."""
    head, lines = table
    cells = [list(head), ["---"] * len(head), *([*line] for line in lines)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells)


def page_table(table: Table) -> str:
    """Write a table as HTML; ``**reached**`` becomes a marked cell."""
    head, lines = table

    def cell(text: str) -> str:
        kind = "reached" if text.startswith("**") else "missed" if text[:5] == "not r" else ""
        return f'<td class="{kind}">{html.escape(text.replace("**", ""))}</td>'

    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "\n".join(f"<tr>{''.join(map(cell, line))}</tr>" for line in lines)
    return f"<table><tr>{top}</tr>\n{body}</table>"


def plots(rows: Rows) -> dict[str, str]:
    """Draw the plots: section title -> SVG images, as HTML."""
    try:
        from bench import plots as draw
    except ModuleNotFoundError as error:
        return {"Calls": f"<p>No plots: {html.escape(str(error))}.</p>"}
    calls = {
        "call/int/released": "add(1, 2), GIL released",
        "call/int/kept": "add(1, 2), GIL kept",
        "call/str/released": "a str argument, GIL released",
        "call/numpy/released": "a NumPy array, GIL released",
    }
    loads = {
        "load/c": "C object, 1.1 kB",
        "load/cpp": "C++ object, 44 kB",
        "load/sections": "C object, 3,200 function sections",
    }
    links = {"link/c": "C object", "link/cpp": "C++ object"}
    images = {
        "Calls": [draw.distributions(rows, calls), draw.call_summary(rows)],
        "Loads": [draw.distributions(rows, loads), draw.curve(rows, "size")],
        "Against a linker": [draw.distributions(rows, links)],
        "Growth curves": [draw.curve(rows, name) for name in ("symbols", "objects", "threads")],
    }
    return {title: "\n".join(map(embedded, svgs)) for title, svgs in images.items()}


def embedded(svg: str) -> str:
    """Return an image element that carries the SVG."""
    if not svg:
        return ""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="plot" src="data:image/svg+xml;base64,{data}">'


CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #0f172a; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.87rem; width: 100%; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid #e2e8f0;
         vertical-align: top; }
th { background: #f1f5f9; white-space: nowrap; }
td.reached { color: #15803d; font-weight: 600; }
td.missed { color: #b91c1c; font-weight: 600; }
img { max-width: 100%; display: block; margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; margin: 0.5rem 0; }
"""


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("older", type=Path, nargs="?", help="JSON of another commit to compare")
    parser.add_argument("--callgrind", type=Path, help="JSON of bench.callgrind")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "report")
    options = parser.parse_args()
    document, rows = read(options.results)

    intro = f"{OURS} against dlopen and its peers, measured side by side."
    heading = "Benchmark report"
    parts: list[tuple[str, str, Table | None]] = [("Targets", "", targets_table(rows))]
    if options.older:
        then, older = read(options.older)
        commits = f"{then['commit_info'].get('id')} and {document['commit_info'].get('id')}"
        parts.append((COMPARED, commits, comparison_table(rows, older)))
    parts.append(("Method", METHOD, None))
    parts += [(title, "", rows_table(rows, prefixes)) for title, prefixes in SECTIONS]
    if options.callgrind:
        counts = json.loads(options.callgrind.read_text())
        text = "Counted by valgrind's callgrind: (2N operations - N operations) / N."
        parts.append(("Instructions", text, callgrind_table(counts)))
    parts.append(("Machine and versions", "", machine_table(document)))

    options.output.mkdir(parents=True, exist_ok=True)
    lines = ["<!-- SPDX-License-Identifier: Apache-2.0 -->", f"# {heading}", intro]
    page = [f"<h1>{heading}</h1><p>{html.escape(intro)}</p>"]
    images = plots(rows)
    for title, text, table in parts:
        if table is not None and not table[1]:
            continue
        lines += [f"## {title}", text, markdown(table) if table else ""]
        page.append(f"<h2>{title}</h2><p>{html.escape(text)}</p>{images.get(title, '')}")
        if table:
            folded = title == COMPARED or any(title == section for section, _ in SECTIONS)
            inside = page_table(table)
            shown = "" if images.get(title) else " open"
            page.append(
                f"<details{shown}><summary>All figures</summary>{inside}</details>"
                if folded
                else inside
            )
    written = "\n\n".join(line for line in lines if line)
    (options.output / "report.md").write_text(written + "\n")
    start = '<!doctype html><html lang="en"><meta charset="utf-8"><title>'
    (options.output / "index.html").write_text(
        f"{start}{heading}</title><style>{CSS}</style>\n" + "\n".join(page) + "</html>\n"
    )
    print(f"{options.output / 'report.md'}, {options.output / 'index.html'}")


if __name__ == "__main__":
    main()
