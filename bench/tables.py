# SPDX-License-Identifier: Apache-2.0
"""The report's tables, from the benchmarks' JSON: each is a head and lines of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.figures import count, figure, number, ratio, verdict
from bench.peers import OURS
from bench.targets import CALLGRIND, TARGETS

Rows = dict[str, dict[str, Any]]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


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
        notes = row.get("notes", {})
        for name, spread in row["competitors"].items():
            over = row["ratios"].get(name)
            shown = ratio(over) if over else ""
            title = f"{name} ({notes[name]})" if name in notes else name
            lines.append([first, title, figure(spread, row["unit"]), str(spread["n"]), shown])
            first = ""
        for name, reason in row["absent"].items():
            lines.append([first, name, reason.splitlines()[0], "", ""])
            first = ""
    return ("row", "competitor", "median [quartiles]", "rounds", "ratio to it"), lines


def machine_facts(document: Mapping[str, Any]) -> dict[str, str]:
    """Return machine, versions, commit and options, by name."""
    machine, commit = document["machine_info"], document["commit_info"]
    bench = machine["bench"]
    clean = "" if not commit.get("dirty") else ", with uncommitted changes"
    cpu = machine["cpu"]
    model = ", ".join(f"{k} {cpu[k]}" for k in ("family", "model", "stepping") if k in cpu)
    return {
        "commit": f"{commit.get('id') or 'none'}{clean}",
        "measured": document["datetime"][:16].replace("T", " ") + " UTC",
        "options": ", ".join(f"--{name}" for name in bench["options"]) or "none",
        "processor": f"{cpu.get('brand_raw', '?')} ({model}), {bench['cores']} cores used",
        "memory": f"{bench['memory'] / 1e9:.1f} GB",
        "load average before": f"{bench['load']:.2f}",
        "system": f"{machine['system']} {'.'.join(machine['release'].split('.')[:2])}",
        "Python": f"{machine['python_implementation']} {machine['python_version']}",
        **bench["versions"],
    }


def machine_table(document: Mapping[str, Any]) -> Table:
    """Return machine, versions, commit and options."""
    return ("", ""), [[name, value] for name, value in machine_facts(document).items()]


def callgrind_table(counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the instruction counts of ``bench.callgrind``, and what is judged by them."""
    lines = []
    for operation, by_name in counts.items():
        against, bound = CALLGRIND[operation]
        first = operation
        for name, value in by_name.items():
            ours = by_name[OURS]
            if isinstance(value, str) or isinstance(ours, str):
                over, shown = "", value if isinstance(value, str) else count(value)
            else:
                over = number(ours["median"] / value["median"]) if name != OURS else ""
                shown = count(value)
            lines.append([first, name, shown, over, f"≤{bound:g}" if name == against else ""])
            first = ""
    return ("operation", "competitor", "instructions [extremes]", "ratio to it", "bound"), lines


def comparison_table(rows: Rows, older: Rows) -> Table:
    """Return this package's figures of two commits, bare and relative to what doesn't change.

    The change in the ratio to a competitor is the one to trust where the machine differs.
    """
    lines = []
    for key in dict.fromkeys((*rows, *older)):
        now, then = own_figure(rows, key), own_figure(older, key)
        unit = (rows if now else older)[key]["unit"]
        cells = [figure(each, unit) if each else "none" for each in (then, now)]
        relative, changes = [""] * 3, ["", ""]
        if now and then:
            changes[0] = change(then, now)
            both = [n for n in rows[key]["ratios"] if n in older[key]["ratios"]]
            if both:
                old, new = older[key]["ratios"][both[0]], rows[key]["ratios"][both[0]]
                relative, changes[1] = [both[0], ratio(old), ratio(new)], change(old, new)
        if now or then:
            lines.append([key, *changes, *cells, *relative])
    head = ("row", "change", "in ratio", "older", "newer", "ratio to", "older ratio", "newer ratio")
    return head, lines


def own_figure(rows: Rows, key: str) -> dict[str, float] | None:
    """Return the spread of a row's subject, if it was measured."""
    if key not in rows:
        return None
    found: dict[str, float] | None = rows[key]["competitors"].get(rows[key]["subject"])
    return found


def change(then: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Write how a median moved, in bold where the quartiles of both don't even overlap."""
    moved = f"{now['median'] / then['median'] - 1:+.1%}"
    return f"**{moved}**" if now["q1"] > then["q3"] or now["q3"] < then["q1"] else moved


def counted_rows(document: Mapping[str, Any]) -> Rows:
    """Return the instruction counts in the form of rows, so that they can be compared."""
    rows = {}
    for operation, by_name in document.get("callgrind", {}).get("counts", {}).items():
        spreads = {name: each for name, each in by_name.items() if not isinstance(each, str)}
        rows[f"instructions/{operation}"] = {
            "unit": "",
            "subject": OURS,
            "competitors": spreads,
            "ratios": {
                name: {part: spreads[OURS][part] / each[part] for part in ("median", "q1", "q3")}
                | {"n": each["n"]}
                for name, each in spreads.items()
                if OURS in spreads and name != OURS
            },
        }
    return rows


def differences(document: Mapping[str, Any], older: Mapping[str, Any]) -> list[str]:
    """Say what else than the package differs between two measurements."""
    now, then = machine_facts(document), machine_facts(older)
    expected = ("commit", "measured", "load average before")
    return [
        f"{name}: {then.get(name, 'none')}, then {now.get(name, 'none')}"
        for name in dict.fromkeys((*then, *now))
        if name not in expected and then.get(name) != now.get(name)
    ]
