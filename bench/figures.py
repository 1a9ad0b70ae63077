# SPDX-License-Identifier: Apache-2.0
"""Write measured figures as text: units, spreads, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.peers import OURS
from bench.targets import Target, judged

SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "": ((1.0, ""),),
}


def scale_of(value: float, unit: str) -> tuple[float, str]:
    """Return the factor and name of the unit a value reads best in."""
    scales = SCALES[unit]
    return next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])


def number(value: float) -> str:
    """Write a value with three significant digits."""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(f"{value:.2e}".partition("e")[2]))
    return f"{value:,.{digits}f}"


def plain(value: float, unit: str) -> str:
    """Write a value with its unit."""
    factor, name = scale_of(value, unit)
    return f"{number(value / factor)} {name}".rstrip()


def figure(spread: Mapping[str, float], unit: str) -> str:
    """Write a median with its quartiles, in one unit; a single sample has none."""
    factor, name = scale_of(spread["median"], unit)
    median, low, high = (number(spread[key] / factor) for key in ("median", "q1", "q3"))
    return f"{median} {name}".rstrip() + between(low, high, spread["n"])


def between(low: str, high: str, samples: float) -> str:
    """Write the spread of a figure: of one sample there is none."""
    if samples == 1:
        return ""
    return " [same]" if low == high else f" [{low} to {high}]"


def count(spread: Mapping[str, float]) -> str:
    """Write a number of instructions with its smallest and largest."""
    median, low, high = (f"{spread[key]:,.0f}" for key in ("median", "min", "max"))
    return median + between(low, high, spread["n"])


def ratio(spread: Mapping[str, float]) -> str:
    """Write a ratio with its quartiles."""
    return figure(spread, "")


@dataclass(frozen=True)
class Verdict:
    """What became of a target.

    Parameters
    ----------
    word
        ``"reached"``, ``"not reached"`` or ``"not measured"``.
    why
        What bounds it, what is missing, and whether the spread leaves it open; may be empty.
    value
        The worst ratio, and the row that it is from.
    """

    word: str
    why: str = ""
    value: str = "-"

    def __str__(self) -> str:
        return f"{self.word}: {self.why}" if self.why else self.word


def verdict(target: Target, rows: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Judge a target by the median ratio of its worst row.

    Parameters
    ----------
    target
        The target.
    rows
        Row key -> record.
    """
    missing = {key: unmeasured(target, key, rows) for key in target.rows}
    missing = {key: reason for key, reason in missing.items() if reason}
    found = judged(target, rows)
    if found is None:
        return Verdict("not measured", "; ".join(dict.fromkeys(missing.values())))
    key, spread = found
    subject, said = rows[key]["subject"], rows[key].get("notes", {})
    notes = [f"{name}: {said[name]}" for name in (subject, target.against) if name in said]
    if len(target.rows) > 1:
        judges = len(target.rows) - len(missing)
        notes.insert(0, f"{key}, the worst of {judges}" if judges > 1 else key)
    elif subject != OURS and not notes:
        notes = [subject]
    value = ratio(spread) + (f" ({'; '.join(notes)})" if notes else "")
    count = rows[key].get("count", target.count)
    if count < target.count:
        return Verdict("not measured", f"only {count:,} of {target.count:,} loads", value)
    reached = spread["median"] <= target.reach
    why = [] if reached or not target.bound else [target.bound]
    if spread["q1"] <= target.reach < spread["q3"]:
        why.append(f"close, {target.reach:g} lies within the quartiles")
    for reason in dict.fromkeys(missing.values()):
        without = ", ".join(row for row in missing if missing[row] == reason)
        why.append(f"without {without} ({reason})")
    return Verdict("reached" if reached else "not reached", "; ".join(why), value)


def unmeasured(target: Target, key: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return why a row has no ratio that judges a target, or an empty string if it has one."""
    if key not in rows:
        return "not run"
    row = rows[key]
    if target.against in row["ratios"]:
        return ""
    absent = row["absent"]
    names = [name for name in (row["subject"], target.against) if name in absent]
    reasons = dict.fromkeys(absent[name].splitlines()[0] for name in names)
    if len(reasons) == 1 and len(names) == 2:
        return str(next(iter(reasons)))
    stated = [f"{name}: {absent[name].splitlines()[0]}" for name in names]
    return "; ".join(stated) or "no ratio"
