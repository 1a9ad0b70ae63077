# SPDX-License-Identifier: Apache-2.0
"""Write measured figures as text: units, spreads, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Write a median with its quartiles, in one unit."""
    factor, name = scale_of(spread["median"], unit)
    median, low, high = (number(spread[key] / factor) for key in ("median", "q1", "q3"))
    text = f"{median} {name}".rstrip()
    return text if low == high else f"{text} [{low} to {high}]"


def ratio(spread: Mapping[str, float]) -> str:
    """Write a ratio with its quartiles."""
    return figure(spread, "")


def verdict(target: Target, rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Judge a target.

    Parameters
    ----------
    target
        The target.
    rows
        Row key -> record.

    Returns
    -------
    tuple of str
        ``"reached"``, ``"not reached"`` or ``"not measured"`` with the reason; and the worst ratio.
    """
    found = judged(target, rows)
    if found is None:
        reasons = {
            f"{name}: {reason}"
            for key in target.rows
            for name, reason in rows.get(key, {}).get("absent", {}).items()
            if name in (target.against, rows[key]["subject"])
        }
        return f"not measured ({'; '.join(sorted(reasons)) or 'not run'})", "-"
    key, spread = found
    unmeasured = [row for row in target.rows if row in rows and not rows[row]["ratios"]]
    subject = rows[key]["subject"]
    where = f" ({key})" if len(target.rows) > 1 else "" if subject == OURS else f" ({subject})"
    reached = "reached" if spread["median"] <= target.reach else "not reached"
    if unmeasured:
        reached += f" (without {', '.join(unmeasured)})"
    return reached, ratio(spread) + where
