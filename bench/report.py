# SPDX-License-Identifier: Apache-2.0
"""Turn the benchmarks' JSON into a report: Markdown, one HTML page, and the JSON beside them.

``python -m bench.report results.json`` writes ``bench/report/``. The report that README and
docs/performance.md quote is made by these commands, in the root of a clean checkout, on a machine
that does nothing else::

    apt-get install lld mold valgrind clang-22 llvm-22-dev
    python -m venv /tmp/llvm23 && python -m venv /tmp/llvm22
    (. /tmp/llvm23/bin/activate && pip install '.[bench]')
    (. /tmp/llvm22/bin/activate && LLVM_DIR=/usr/lib/llvm-22/lib/cmake/llvm pip install .)
    . /tmp/llvm23/bin/activate && pip wheel . --no-deps -w /tmp/wheel
    python -m pytest bench --install-peers --long --other-python /tmp/llvm22/bin/python \\
        --wheel /tmp/wheel/tvm_ffi_object_loader-*.whl --benchmark-json /tmp/results.json
    pip uninstall -y tvm-ffi-object-loader && SKBUILD_INSTALL_STRIP=false pip install .
    python -m bench.callgrind --json /tmp/counts.json
    python -m bench.report /tmp/results.json --callgrind /tmp/counts.json \\
        --pages README.md docs/performance.md

The JSON stays beside the report, and the HTML page out of the repository: ``python -m bench.report
bench/report/results.json`` writes both anew, and ``python -m bench.report newer.json older.json
--output compared`` compares two commits.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from pathlib import Path
from typing import Any

from bench import page
from bench.peers import OURS
from bench.tables import (
    Rows,
    Table,
    callgrind_table,
    comparison_table,
    counted_rows,
    differences,
    machine_facts,
    machine_table,
    rows_table,
    targets_table,
)
from bench.targets import WITHOUT_NAMES

METHOD = (
    "The competitors of a row take turns: each round takes one sample of every one of them, in a "
    "random order, with Python's garbage collector off. A figure is the median over the rounds, "
    "with the quartiles in brackets, or [same] where they don't differ by a digit. A ratio is this "
    "package's sample divided by the other's of the same round, again as median and quartiles; "
    "below 1 this package is faster or smaller. "
    "A target is judged by the median ratio of its worst row, which is named; a row whose "
    "competitor is missing is named, too. A competitor that could not be measured is listed with "
    "the reason, in the place of its figure."
)
TARGETS_BEGIN, TARGETS_END = "<!-- targets: begin -->\n", "<!-- targets: end -->\n"
COMPARED = "Two commits compared"
SECTIONS = (
    (
        "Calls",
        ("call/",),
        "A sample is the mean of about 1 ms of calls, of a function that does next to nothing. The "
        "loop around the calls is part of every figure, which moves ratios towards 1: "
        "operator.add, measured in the same way, is the least that a call of two arguments takes. "
        "ctypes, cffi, nanobind and Cython call functions of the same signature without TVM-FFI's "
        "conventions; they give up the GIL where the others do.",
    ),
    (
        "Loads",
        ("load/", "llvm/"),
        "A sample is the mean of up to 20 loads, each looked up and called once; unloading is not "
        "timed, and llvmlite's libraries stay loaded. dlopen, ctypes and cffi open a shared "
        "library that was linked before. The rows "
        "llvm/ compare this package built on two LLVMs, in a process of its own each; where one is "
        "linked statically and the other is not, the figures are of both differences.",
    ),
    (
        "Large content",
        ("content/", "embedded/"),
        "Constants or data of 256 KiB to 64 MiB: load, look up, call and drop; and, for /kept, the "
        "median of loads that all stay, in a fresh process a sample. embedded/load drops too; what "
        "it embeds has a loader in Python, which is given the bytes. dlopen maps a file's pages "
        "where this package and the peer have copies, so that they may be relocated.",
    ),
    (
        "What other compilers make",
        ("producers/",),
        "Objects of CuTe DSL (a kernel) and of TVM (a function of TE, and a network of Relax with "
        "12 MiB of weights, in its virtual machine), against the shared libraries of them: load, "
        "look up and the first call. The kernel needs a runtime library, and refuses the call: it "
        "has one argument too few, as there may be no GPU. /call are calls with arrays of eight "
        "numbers; CuTe's is of a function of the host.",
    ),
    (
        "Against a linker",
        ("link/", "archive/"),
        "What it takes from an object to the first call: this package loads it, the others link a "
        "shared library, dlopen it and look up. Linkers run once a sample.",
    ),
    (
        "In other processes",
        ("send/",),
        "What it takes a process from what was sent to the first call: the pickle of a function, "
        "with its C++ object, or the bytes of the library that was linked of it before. In a "
        "process that receives it for the first time, and others before; /new_worker is a fresh "
        "one, which imports what it needs beyond tvm_ffi. To receive the same again takes 10 µs.",
    ),
    (
        "Sessions, imports, memory, sizes",
        ("session/", "import/", "memory/", "size/"),
        "Imports are timed beyond import tvm_ffi, and memory is what each of 1,000 resident "
        "modules adds to the process, after a first 100, both in a fresh process a sample. "
        "session/first_load is a new session and its first load: what one puts off is paid there. "
        "Sizes are files' sizes: one sample, no spread.",
    ),
    (
        "Threads and many modules",
        ("threads/", "long/"),
        "Wall time divided by the number of loads, in a fresh process a sample, one session for "
        "all threads. dlopen opens a copy of the library each time, as it knows a file by its "
        "inode. The two processes share nothing but the machine: what they gain is the most that "
        "threads could. NumPy's threads, which spin for a while, are off.",
    ),
    (
        "Recipes",
        ("recipes/",),
        "What docs/ shows. recipes/trials is the time a trial of its autotuner, two at a time, "
        "from the start of the workers to their end; the others link a library and start a "
        "process for each, of which 20 are tried a round. recipes/dask/ is a cluster of two "
        "workers with one thread each, a new one each round: of 1,000 tasks one, whose chunk has "
        "4,096 numbers; the first task on a new worker; and one of 1,000 objects, or libraries, "
        "that are sent to both workers and called by each.",
    ),
    (
        "Growth curves",
        ("growth/",),
        "size/ is bytes of constant data, symbols/ global functions in one object, threads/ "
        "threads that load C++ objects into one session, objects/ C objects that all stay loaded; "
        "the last two in a fresh process a sample.",
    ),
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


def warnings(document: dict[str, Any]) -> list[str]:
    """Say why the figures should not be cited, as far as the JSON tells."""
    bench, found = document["machine_info"]["bench"], []
    if "quick" in bench["options"]:
        found.append("Short rounds (--quick): these figures are not for citing.")
    if "long" not in bench["options"]:
        found.append("Measured without --long: some rows are not run, or shorter.")
    if document["commit_info"].get("dirty"):
        found.append(
            "Measured with uncommitted changes: the commit does not say what was measured."
        )
    if not bench["installed"]:
        found.append("The installed package's Python files are not those of the commit.")
    return found


def markdown(table: Table) -> str:
    """Write a table as Markdown."""
    head, lines = table
    cells = [list(head), ["---"] * len(head), *([*line] for line in lines)]
    escaped = ([re.sub(r"[|<]", r"\\\g<0>", cell) for cell in row] for row in cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def plots(rows: Rows) -> dict[str, str]:
    """Draw the plots: section title -> figures, as HTML."""
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
    curves = {
        name: page.plot(draw.curve(rows, name), draw.gaps(rows, name)) for name in draw.CURVES
    }
    images = {
        "Calls": [
            page.plot(draw.distributions(rows, calls, "time a call"), draw.KEY),
            page.plot(draw.call_summary(rows)),
        ],
        "Loads": [
            page.plot(draw.distributions(rows, loads, "time a load"), draw.KEY),
            curves.pop("size"),
        ],
        "Against a linker": [
            page.plot(draw.distributions(rows, links, "from object to first call"), draw.KEY)
        ],
        "Growth curves": list(curves.values()),
    }
    return {title: "\n".join(figures) for title, figures in images.items()}


def put_into_page(page: Path, table: str) -> None:
    """Replace the rows that a page has of the targets, or all between its markers."""
    before, begin, rest = page.read_text().partition(TARGETS_BEGIN)
    if begin:
        _, end, after = rest.partition(TARGETS_END)
        page.write_text(f"{before}{begin}{table}\n{end}{after}")
        return

    def cells(row: str) -> list[str]:
        return row.split(" | ")[:2]

    rows = table.splitlines()
    lines = [
        next((row for row in rows if cells(row) == cells(line)), line)
        for line in before.splitlines()
    ]
    page.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("older", type=Path, nargs="?", help="JSON of another commit to compare")
    parser.add_argument("--callgrind", type=Path, help="JSON of bench.callgrind")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "report")
    parser.add_argument(
        "--pages", type=Path, nargs="*", default=[], help="write the targets into these pages, too"
    )
    options = parser.parse_args()
    document, rows = read(options.results)
    if options.callgrind:
        document["callgrind"] = json.loads(options.callgrind.read_text())

    facts = machine_facts(document)
    intro = (
        f"{OURS} {facts[OURS]} against dlopen and its peers, measured side by side. "
        f"Commit {facts['commit'][:12]}, {facts['measured']}, LLVM {facts['its LLVM']}, "
        f"{facts['Python']}, {facts['processor']}."
    )
    heading = "Benchmark report"
    targets = targets_table(rows)
    parts: list[tuple[str, str, Table | None]] = [("Targets", "", targets)]
    if options.older:
        then, older = read(options.older)
        same = "Machine, options and versions are the same."
        others = "; ".join(differences(document, then))
        ids = [
            f"{each['commit_info'].get('id')} ({each['datetime'][:10]})"
            for each in (then, document)
        ]
        text = (
            f"Older: {ids[0]}; newer: {ids[1]}. Bold: the quartiles don't overlap. "
            f"{f'These differ, too, so trust the ratios: {others}.' if others else same}"
        )
        compared = comparison_table(rows | counted_rows(document), older | counted_rows(then))
        apart_rows = [line[0] for line in compared[1] if "*" in (line[2] or line[1])]
        text += (
            f" Apart in their ratio, or else in their figure: {', '.join(apart_rows) or 'none'}."
        )
        parts.insert(0, (COMPARED, text, compared))
    parts.append(("Method", METHOD, None))
    parts += [(title, text, rows_table(rows, prefixes)) for title, prefixes, text in SECTIONS]
    if "callgrind" in document:
        counted = document["callgrind"]
        text = (
            "Of one operation, counted by valgrind's callgrind in several processes, at commit "
            f"{counted['commit_info'].get('id')}. The kernel's are not counted, and they are most "
            "of what dlopen executes: loads are bounded against the peer."
        )
        if any(WITHOUT_NAMES in by_name for by_name in counted["counts"].values()):
            text += (
                " What it costs that code has names by address is counted within the functions "
                "that collect them and drop them."
            )
        parts.append(("Instructions", text, callgrind_table(counted["counts"])))
    parts.append(("Machine and versions", "", machine_table(document)))
    parts = [part for part in parts if part[2] is None or part[2][1]]

    noted = warnings(document)
    lines = [
        *("<!-- SPDX-License-Identifier: Apache-2.0 -->", f"# {heading}", intro),
        *(f"> {warning}" for warning in noted),
    ]
    body = [f"<p>{html.escape(intro)}</p>"]
    body += [f'<p class="warning">{html.escape(warning)}</p>' for warning in noted]
    images = plots(rows)
    folded = {title for title, _, _ in SECTIONS}
    for title, text, table in parts:
        lines += [f"## {title}", text, markdown(table) if table else ""]
        body.append(
            page.section(
                *(title, text),
                images=images.get(title, ""),
                rows=page.table(table) if table else "",
                folded=title in folded,
            )
        )
    options.output.mkdir(parents=True, exist_ok=True)
    written = {
        "report.md": "\n\n".join(line for line in lines if line) + "\n",
        "index.html": page.page(heading, [title for title, _, _ in parts], "\n".join(body)),
        "results.json": json.dumps(document, separators=(",", ":")) + "\n",
    }
    for name, text in written.items():
        (options.output / name).write_text(text)
        print(options.output / name)
    for each in options.pages:
        put_into_page(each, markdown(targets))


if __name__ == "__main__":
    main()
