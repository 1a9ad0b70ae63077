# SPDX-License-Identifier: Apache-2.0
"""Count the instructions of one call and one load, which no other process on the machine disturbs.

``python -m bench.callgrind [--json FILE] [--check]`` runs each operation N and 2N times under
``valgrind --tool=callgrind`` and divides the difference by N: what a process does once cancels out.
With ``--check`` it exits with 1 if a ratio is over its bound in `bench.targets.CALLGRIND`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import objects, peers, probe
from bench.targets import CALLGRIND

NAMES = (peers.OURS, peers.DLOPEN, peers.PEER)
# Starting a process varies by some million instructions; these keep that within a few percent.
COUNTS = {"call": 100_000, "load_c": 1000, "load_cpp": 200}


def work(operation: str, name: str, path: str, count: int) -> None:
    """Do an operation ``count`` times; this runs under valgrind."""
    opened = probe.loader(name)
    kept = opened.load(path)
    function = kept[-1]
    assert function(1, 2) == 3
    gc.disable()
    if operation == "call":
        for _ in range(count):
            function(1, 2)
    else:
        for _ in range(count):
            opened.load(path)[-1](1, 2)


def instructions(*arguments: object) -> int:
    """Return the instructions that a whole process executes to do `work`.

    Raises
    ------
    RuntimeError
        If it does not run under valgrind.
    """
    start = "import sys; sys.modules['torch'] = None; from bench import callgrind as c; "
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"),
                *(sys.executable, "-c", f"{start}c.work{arguments!r}"),
            ],
            cwd=probe.ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(done.stderr[-500:])
    return int(found[1])


def count_all() -> dict[str, dict[str, float | str]]:
    """Return operation -> competitor -> instructions of one operation, or why there is no count."""
    table: dict[str, dict[str, float | str]] = {}
    for operation, count in COUNTS.items():
        table[operation] = {}
        for name in NAMES:
            opened = peers.LOADERS[name]()
            if isinstance(opened, str):
                table[operation][name] = opened
                continue
            # Compiled here: a compiler's process in the one measured would blur the count.
            path = opened.path(
                objects.cpp_object() if operation == "load_cpp" else objects.c_object()
            )
            try:
                once, twice = (instructions(operation, name, path, n) for n in (count, 2 * count))
                table[operation][name] = (twice - once) / count
            except RuntimeError as error:
                table[operation][name] = f"failed: {error}"
            print(f"{operation:10} {name:24} {table[operation][name]}", file=sys.stderr)
    return table


def main() -> int:
    """Count, print and check."""
    parser = argparse.ArgumentParser(prog="python -m bench.callgrind", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counts here, for bench.report")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is lost")
    options = parser.parse_args()
    table = count_all()
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    lost = 0
    for operation, (against, bound) in CALLGRIND.items():
        own, other = table[operation][peers.OURS], table[operation][against]
        if isinstance(own, str) or isinstance(other, str):
            print(f"{operation}: not counted: {own} / {other}")
            lost += 1
            continue
        within = own / other <= bound
        lost += not within
        word = "within" if within else "over"
        ratio = f"{own:,.0f} / {other:,.0f} = {own / other:.3f}"
        print(f"{operation}, against {against}: {ratio}, {word} {bound}")
    return int(options.check and lost > 0)


if __name__ == "__main__":
    sys.exit(main())
