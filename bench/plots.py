# SPDX-License-Identifier: Apache-2.0
"""Draw the report's plots, each as one SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.figures import plain
from bench.interleave import quantile
from bench.peers import DLOPEN, OURS, PEER

Rows = Mapping[str, Mapping[str, Any]]
COLORS = {OURS: "#c2410c", DLOPEN: "#1d4ed8", PEER: "#15803d"}
OTHER = "#64748b"
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": "#e2e8f0",
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
}
CURVES = {
    "size": ("Load latency against object size", "bytes of constant data", "bytes"),
    "symbols": ("Load latency against global symbols", "global symbols in the object", "count"),
    "objects": ("Time a load as modules pile up", "modules loaded, all kept", "count"),
    "threads": ("Time a load against threads, C++ object", "threads", "count"),
}


def color(name: str) -> str:
    """Return a competitor's color."""
    return COLORS.get(name, OTHER)


def drawn(figure: Figure) -> str:
    """Return a figure as SVG and close it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return stream.getvalue()


def seconds_axis(set_formatter: Callable[[Any], None]) -> None:
    """Label an axis with times in their best unit."""
    set_formatter(FuncFormatter(lambda value, _: plain(value, "s")))


def log_ticks(low: float, high: float) -> LogLocator:
    """Return the ticks of a logarithmic axis: at 1, 2 and 5 where there is room for them."""
    return LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,))


def boxes(axes: Axes, record: Mapping[str, Any], title: str) -> None:
    """Draw the distribution of a row's samples: median, quartiles, 5 % and 95 %."""
    names = sorted(record["competitors"], key=lambda name: -record["competitors"][name]["median"])
    for place, name in enumerate(names):
        samples = record["competitors"][name]["samples"]
        body = axes.boxplot(
            [samples],
            positions=[place],
            orientation="horizontal",
            whis=(5, 95),
            widths=0.6,
            sym="",
            patch_artist=True,
        )
        for part in body["boxes"]:
            part.set(facecolor=color(name), alpha=0.35, edgecolor=color(name))
        for part in (*body["medians"], *body["whiskers"], *body["caps"]):
            part.set(color=color(name), linewidth=1.5)
        axes.annotate(
            plain(quantile(samples, 0.5), record["unit"]),
            (body["whiskers"][1].get_xdata()[1], place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=color(name),
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.set_title(title, loc="left", fontsize=11)
    axes.margins(x=0.18)
    axes.xaxis.set_major_locator(log_ticks(*axes.get_xlim()))
    seconds_axis(axes.xaxis.set_major_formatter)
    axes.xaxis.set_minor_formatter(NullFormatter())


def distributions(rows: Rows, keys: Mapping[str, str]) -> str:
    """Draw the distributions of several rows, one panel each.

    Parameters
    ----------
    rows
        Row key -> record.
    keys
        Row key -> title of its panel; rows that were not measured are left out.

    Returns
    -------
    str
        The SVG, or an empty string if none was measured.
    """
    present = [key for key in keys if key in rows and rows[key]["competitors"]]
    if not present:
        return ""
    heights = [len(rows[key]["competitors"]) + 1.5 for key in present]
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(
            *(len(present), 1),
            figsize=(9, 0.34 * sum(heights)),
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        for axes, key in zip(grid[:, 0], present, strict=True):
            boxes(axes, rows[key], keys[key])
        return drawn(figure)


def call_summary(rows: Rows) -> str:
    """Draw the median call of each kind of argument, for three ways to the same function."""
    keys = [key for key in rows if key.startswith("call/") and rows[key]["competitors"]]
    if not keys:
        return ""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
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
                error_kw={"elinewidth": 1, "ecolor": "#334155"},
            )
            axes.set_ylim(0, max(axes.get_ylim()[1], max(medians) * 1.3))
        labels = [key.split("/")[1] + "\nkept" * key.endswith("kept") for key in keys]
        axes.set_xticks(range(len(keys)), labels)
        seconds_axis(axes.yaxis.set_major_formatter)
        axes.grid(visible=False, axis="x")
        title = "One call by kind of argument, GIL released or kept (median, quartiles)"
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(frameon=False, ncols=3)
        return drawn(figure)


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
    names = {competitor for row in points for competitor in row["competitors"]}
    if not names:
        return ""
    title, label, kind = CURVES[name]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
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
        axes.set_xlabel(label)
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(frameon=False)
        return drawn(figure)


def amount(value: float, kind: str) -> str:
    """Write a place on a curve's axis."""
    if kind == "bytes":
        mebibyte = 1 << 20
        return f"{value / mebibyte:g} MiB" if value >= mebibyte else f"{value / 1024:g} KiB"
    return f"{value:,.0f}"
