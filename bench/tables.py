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
        row = rows.get(key, {"competitors": {}, "subject": older.get(key, {}).get("subject")})
        now = row["competitors"].get(row["subject"])
        then = older.get(key, {}).get("competitors", {}).get(row["subject"])
        if not now and not then:
            continue
        if not now or not then:
            unit = older[key]["unit"] if then else row["unit"]
            alone = figure(then or now, unit)
            lines.append([key, alone if then else "none", alone if now else "none", *[""] * 4])
            continue
        against = next((n for n in row["ratios"] if n in older[key]["ratios"]), None)
        relative = ["", "", ""]
        if against:
            new, old = row["ratios"][against], older[key]["ratios"][against]
            relative = [f"{ratio(old)} of {against}", ratio(new), change(old, new)]
        figures = [figure(then, row["unit"]), figure(now, row["unit"]), change(then, now)]
        lines.append([key, *figures, *relative])
    return ("row", "older", "newer", "change", "older ratio", "newer ratio", "its change"), lines


def change(then: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Write how a median moved, marked where the quartiles of both don't even overlap."""
    moved = f"{now['median'] / then['median'] - 1:+.1%}"
    if now["q1"] > then["q3"]:
        return f"**{moved} more**"
    return f"**{moved} less**" if now["q3"] < then["q1"] else f"{moved}, in the spread"


def differences(document: Mapping[str, Any], older: Mapping[str, Any]) -> list[str]:
    """Say what else than the package differs between two measurements."""
    now, then = machine_facts(document), machine_facts(older)
    expected = ("commit", "measured", "load average before")
    return [
        f"{name}: {then.get(name, 'none')}, then {now.get(name, 'none')}"
        for name in dict.fromkeys((*then, *now))
        if name not in expected and then.get(name) != now.get(name)
    ]
