# SPDX-License-Identifier: Apache-2.0
"""Count the instructions of one call and one load, which no other process on the machine disturbs.

``python -m bench.callgrind [--json FILE] [--check]`` does each operation many times in a process
under ``valgrind --tool=callgrind`` that counts nothing else, and divides; several processes give
the spread. With ``--check`` it exits with 1 if a ratio is over its bound in
`bench.targets.CALLGRIND`, and counts only what these bounds are about, once. It needs valgrind and
its headers (Debian: ``apt-get install valgrind``).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pytest_benchmark.utils import get_commit_info

from bench import objects, peers, probe
from bench.figures import count
from bench.interleave import spread
from bench.targets import CALLGRIND

NAMES = (peers.OURS, peers.DLOPEN, peers.PEER)
# Operations in a process: enough that the loop around them and what is rare don't show.
TIMES = {"call": 5000, "call_kept": 5000, "load_c": 200, "load_cpp": 100}
PROCESSES = 3


def work(operation: str, name: str, path: str, instrument: str, times: int) -> None:
    """Do an operation ``times`` times, and count its instructions; this runs under valgrind."""
    opened = probe.loader(name)
    counting = ctypes.PyDLL(instrument)
    kept = [opened.load(path) for _ in range(3)]  # The first ones pay for what is done once.
    function = kept[-1][-1]
    assert function(1, 2) == 3
    function.release_gil = operation != "call_kept"  # type: ignore[attr-defined]
    gc.disable()
    counting.start_counting()
    if operation.startswith("call"):
        for _ in range(times):
            function(1, 2)
    else:
        for _ in range(times):
            opened.load(path)[-1](1, 2)
    counting.stop_counting()


def instructions(operation: str, *arguments: object) -> float:
    """Return the instructions of one operation, counted in a process of its own by `work`.

    Raises
    ------
    RuntimeError
        If it does not run under valgrind.
    """
    start = "import sys; sys.modules['torch'] = None; from bench import callgrind as c; "
    times = TIMES[operation]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
                *(f"--callgrind-out-file={folder}/out", sys.executable, "-c"),
                f"{start}c.work{(operation, *arguments, times)!r}",
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
    return int(found[1]) / times


def count_one(operation: str, name: str, processes: int) -> dict[str, float] | str:
    """Return the spread of an operation's instructions, or why there is no count."""
    opened = peers.LOADERS[name]()
    if isinstance(opened, str):
        return opened
    # Compiled here: a compiler's process in the one measured would blur the count.
    obj = objects.cpp_object() if operation == "load_cpp" else objects.c_object()
    path, instrument = opened.path(obj), str(objects.instrument())
    try:
        return spread([instructions(operation, name, path, instrument) for _ in range(processes)])
    except RuntimeError as error:
        return f"failed: {error}"


def main() -> int:
    """Count, print and check."""
    parser = argparse.ArgumentParser(prog="python -m bench.callgrind", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counts here, for bench.report")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is lost")
    options = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    lost = 0
    for operation, (against, bound) in CALLGRIND.items():
        names = (peers.OURS, against) if options.check and not options.json else NAMES
        table[operation] = {
            name: count_one(operation, name, PROCESSES if options.json else 1) for name in names
        }
        for name, value in table[operation].items():
            print(f"{operation:10} {name:24} {value if isinstance(value, str) else count(value)}")
        own, other = table[operation][peers.OURS], table[operation][against]
        if isinstance(own, str) or isinstance(other, str):
            print(f"{operation}, against {against}: not counted")
            lost += 1
            continue
        ratio = own["median"] / other["median"]
        lost += ratio > bound
        word = "within" if ratio <= bound else "OVER"
        print(f"{operation}, against {against}: {ratio:.3f}, {word} {bound}", flush=True)
    if options.json:
        commit = get_commit_info()  # type: ignore[no-untyped-call]
        document = {"commit_info": commit, "counts": table}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(options.check and lost > 0)


if __name__ == "__main__":
    sys.exit(main())
