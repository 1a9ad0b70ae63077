# SPDX-License-Identifier: Apache-2.0
"""Draw the report's plots, each as one SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.figures import figure as written
from bench.figures import scale_of
from bench.peers import DLOPEN, OURS, PEER

Rows = Mapping[str, Mapping[str, Any]]
COLORS = {OURS: "#c2410c", DLOPEN: "#1d4ed8", PEER: "#15803d"}
OTHER = "#64748b"
INK = "#0f172a"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": "#e2e8f0",
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
KEY = (
    "Curve: how the samples are distributed; thick line: their quartiles; tick and figure: their "
    "median. The scales are logarithmic."
)
CURVES = {
    "size": ("Load latency against object size", "bytes of constant data", "bytes"),
    "symbols": ("Load latency against global symbols", "global symbols in the object", "count"),
    "objects": ("Time a load as modules pile up", "modules loaded, all kept", "count"),
    "threads": ("Time a load against threads, C++ object", "threads", "count"),
}


def color(name: str) -> str:
    """Return a competitor's color."""
    return COLORS.get(name, OTHER)


def drawn(figure: Figure, name: str) -> str:
    """Return a figure as SVG and close it; the name keeps its ids apart from other plots'."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            stream, format="svg", metadata={"Date": None}, bbox_inches="tight", transparent=True
        )
    plt.close(figure)
    return stream.getvalue()


def tick(value: float) -> str:
    """Write a time at an axis, without the digits that a figure has."""
    factor, name = scale_of(value, "s")
    return f"{value / factor:g} {name}"


def seconds_axis(set_formatter: Callable[[Any], None]) -> None:
    """Label an axis with times in their best unit."""
    set_formatter(FuncFormatter(lambda value, _: tick(value)))


def log_ticks(low: float, high: float) -> LogLocator:
    """Return the ticks of a logarithmic axis: as many in a decade as there is room for."""
    span = high / low
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if span < 8 else (1.0, 2.0, 5.0)
    return LogLocator(subs=subs if span < 300 else (1.0,), numticks=20)


def density(samples: Sequence[float]) -> tuple[Any, Any]:
    """Estimate the density of the samples' logarithms.

    Returns
    -------
    tuple of arrays
        Places, from the 1st percentile to the 99th and a little beyond; densities, at most 1.
    """
    logs = np.log10(samples)
    low, q1, q3, high = np.percentile(logs, (1, 25, 75, 99))
    # Silverman's rule; what differs by less than half a percent is not told apart.
    width = max(0.9 * min(logs.std(), (q3 - q1) / 1.34) * len(logs) ** -0.2, 0.002)
    places = np.linspace(low - 2 * width, high + 2 * width, 100)
    heights = np.exp(-0.5 * ((places[:, None] - logs) / width) ** 2).sum(axis=1)
    return 10**places, heights / heights.max()


def ridges(axes: Axes, record: Mapping[str, Any], title: str) -> None:
    """Draw the distribution of each competitor's samples, with quartiles and median."""
    competitors = record["competitors"]
    names = sorted(competitors, key=lambda name: -competitors[name]["median"])
    for place, name in enumerate(names):
        spread, shade = competitors[name], color(name)
        places, heights = density(spread["samples"])
        base = place - 0.3
        axes.fill_between(places, base, base + 0.75 * heights, color=shade, alpha=0.3, linewidth=0)
        axes.plot((spread["q1"], spread["q3"]), (base, base), color=shade, linewidth=4)
        axes.plot((spread["median"],) * 2, (base, base + 0.75), color=shade, linewidth=1.5)
        axes.annotate(
            written(spread, record["unit"]),
            (max(places[-1], spread["q3"]), base + 0.3),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=shade,
        )
    absent = [
        f"{name} ({reason.splitlines()[0][:40]})" for name, reason in record["absent"].items()
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.5, len(names) - 0.4)
    axes.set_xscale("log")
    axes.set_title(title, loc="left", fontsize=11)
    if absent:
        axes.set_title(f"not here: {', '.join(absent)}", loc="right", fontsize=8, color=OTHER)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.3)  # Room for the figures.
    axes.xaxis.set_major_locator(log_ticks(*axes.get_xlim()))
    seconds_axis(axes.xaxis.set_major_formatter)
    axes.xaxis.set_minor_formatter(NullFormatter())


def distributions(rows: Rows, keys: Mapping[str, str], label: str) -> str:
    """Draw the distributions of several rows, one panel each.

    Parameters
    ----------
    rows
        Row key -> record.
    keys
        Row key -> title of its panel; rows that were not measured are left out.
    label
        What the time axis shows.

    Returns
    -------
    str
        The SVG, or an empty string if none was measured.
    """
    present = [key for key in keys if key in rows and rows[key]["competitors"]]
    if not present:
        return ""
    heights = [len(rows[key]["competitors"]) + 1.6 for key in present]
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(
            *(len(present), 1),
            figsize=(9.5, 0.36 * sum(heights)),
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for axes, key in zip(grid[:, 0], present, strict=True):
            ridges(axes, rows[key], keys[key])
        axes.set_xlabel(f"{label} (logarithmic)")
        figure.set_layout_engine("constrained", h_pad=0.12)
        return drawn(figure, label)


def call_summary(rows: Rows) -> str:
    """Draw the median call of each kind of argument, for three ways to the same function."""
    keys = [key for key in rows if key.startswith("call/") and rows[key]["competitors"]]
    if not keys:
        return ""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 3.6), layout="constrained")
        for offset, name in enumerate((OURS, DLOPEN, PEER)):
            shown = [(n, rows[k]["competitors"].get(name)) for n, k in enumerate(keys)]
            points = [(n + 0.27 * (offset - 1), spread) for n, spread in shown if spread]
            if not points:
                continue
            medians = [spread["median"] for _, spread in points]
            low = [spread["median"] - spread["q1"] for _, spread in points]
            high = [spread["q3"] - spread["median"] for _, spread in points]
            axes.bar(
                [place for place, _ in points],
                medians,
                width=0.25,
                color=color(name),
                alpha=0.75,
                label=name,
                yerr=(low, high),
                error_kw={"elinewidth": 1, "ecolor": INK},
            )
            axes.set_ylim(0, max(axes.get_ylim()[1], max(medians) * 1.3))
        labels = [key.split("/")[1] + "\nkept" * key.endswith("kept") for key in keys]
        axes.set_xticks(range(len(keys)), labels)
        seconds_axis(axes.yaxis.set_major_formatter)
        axes.grid(visible=False, axis="x")
        axes.set_axisbelow(True)
        axes.set_ylabel("time a call")
        title = "One call by kind of argument, GIL released or kept (median, quartiles)"
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(frameon=False, ncols=3)
        return drawn(figure, "calls")


def curve(rows: Rows, name: str) -> str:
    """Draw a growth curve: medians as a line, quartiles as a band.

    Parameters
    ----------
    rows
        Row key -> record.
    name
        A key of `CURVES`.

    Returns
    -------
    str
        The SVG, or an empty string if it was not measured.
    """
    points = sorted(
        (row for row in rows.values() if row.get("curve") == name), key=lambda row: row["x"]
    )
    points = [row for row in points if row["competitors"]]
    names = {competitor for row in points for competitor in row["competitors"]}
    if not names:
        return ""
    title, label, kind = CURVES[name]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 3.8), layout="constrained")
        for competitor in sorted(names, key=lambda each: (each != OURS, each)):
            spreads = [
                (row["x"], row["competitors"][competitor])
                for row in points
                if competitor in row["competitors"]
            ]
            xs = [x for x, _ in spreads]
            low, middle, high = (
                [spread[part] for _, spread in spreads] for part in ("q1", "median", "q3")
            )
            axes.plot(xs, middle, "o-", color=color(competitor), label=competitor, markersize=4)
            axes.fill_between(xs, low, high, color=color(competitor), alpha=0.18, linewidth=0)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(log_ticks(*axes.get_ylim()))
        if name == "threads":
            axes.set_xticks([row["x"] for row in points])
        else:
            axes.set_xscale("log", base=2 if kind == "bytes" else 10)
            axes.set_xticks([row["x"] for row in points])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: amount(x, kind)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        seconds_axis(axes.yaxis.set_major_formatter)
        axes.set_xlabel(label if name == "threads" else f"{label} (logarithmic)")
        axes.set_ylabel("time a load (logarithmic)")
        axes.set_title(f"{title} (median, quartiles)", loc="left", fontsize=11)
        # Beside the curves, which may be anywhere.
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return drawn(figure, name)


def gaps(rows: Rows, name: str) -> str:
    """Say which points a curve lacks, and why."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for row in rows.values():
        if row.get("curve") == name:
            for competitor, reason in row["absent"].items():
                place = amount(row["x"], CURVES[name][2])
                lacking.setdefault((place, reason.splitlines()[0]), []).append(competitor)
    parts = [f"{', '.join(who)} at {at} ({why})" for (at, why), who in lacking.items()]
    return f"Not measured: {'; '.join(parts)}." if parts else ""


def amount(value: float, kind: str) -> str:
    """Write a place on a curve's axis."""
    if kind == "bytes":
        mebibyte = 1 << 20
        return f"{value / mebibyte:g} MiB" if value >= mebibyte else f"{value / 1024:g} KiB"
    return f"{value:,.0f}"
