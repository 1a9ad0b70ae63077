# SPDX-License-Identifier: Apache-2.0
"""Count the instructions of one call and one load, which no other process on the machine disturbs.

``python -m bench.callgrind [--json FILE] [--check]`` does each operation many times in a process
under ``valgrind --tool=callgrind`` that counts nothing else, and divides; several processes give
the spread. With ``--check`` it exits with 1 if a ratio is over its bound in
`bench.targets.CALLGRIND`, and counts only what these bounds are about, once. It needs valgrind and
its headers (Debian: ``apt-get install valgrind``). What names cost a load is counted by function:
for that the extension must not be stripped. What CMake builds is not, nor is what pip installs with
``SKBUILD_INSTALL_STRIP=false``.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_benchmark.utils import get_commit_info

from bench import objects, peers, probe
from bench.figures import count
from bench.interleave import spread
from bench.targets import CALLGRIND, WITHOUT_NAMES

NAMES = (peers.OURS, peers.DLOPEN, peers.PEER)
# Operations in a process: enough that the loop around them and what is rare don't show.
TIMES = {"call": 5000, "call_kept": 5000, "load_c": 200, "load_cpp": 100}
PROCESSES = 3
# Of which load the cost of its names is counted, and what callgrind calls the functions that
# collect them, and that drop what a load has kept: its names, and a few vectors beside them.
NAMED_LOADS = {"names_c": "load_c", "names_cpp": "load_cpp"}
NAMING = ("object_loader::GraphBuilder::CollectNames*", "object_loader::Image::~Image*")


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


def instructions(operation: str, within: Sequence[str], *arguments: object) -> float:
    """Return the instructions of one operation, counted in a process of its own by `work`.

    Parameters
    ----------
    operation
        Which one.
    within
        Functions of which alone they are counted, with what these call; all if empty.
    *arguments
        What `work` takes between the operation and how many times it is done.

    Returns
    -------
    float
        The mean.

    Raises
    ------
    RuntimeError
        If it does not run under valgrind, or there are no such functions.
    """
    start = "import sys; sys.modules['torch'] = None; from bench import callgrind as c; "
    times = TIMES[operation]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
                *(f"--toggle-collect={function}" for function in within),
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
    if not int(found[1]):
        raise RuntimeError("the extension is stripped, or calls no function of these names")
    return int(found[1]) / times


@functools.cache
def counts(
    operation: str, name: str, processes: int, within: tuple[str, ...] = ()
) -> list[float] | str:
    """Return an operation's instructions in each process, or why they are not counted."""
    opened = peers.LOADERS[name]()
    if isinstance(opened, str):
        return opened
    # Compiled here: a compiler's process in the one measured would blur the count.
    obj = objects.cpp_object() if operation == "load_cpp" else objects.c_object()
    path, instrument = opened.path(obj), str(objects.instrument())
    try:
        return [instructions(operation, within, name, path, instrument) for _ in range(processes)]
    except RuntimeError as error:
        return f"failed: {error}"


def count_one(operation: str, name: str, processes: int) -> dict[str, float] | str:
    """Return the spread of an operation's instructions, or why there is no count."""
    operation = NAMED_LOADS.get(operation, operation)
    found = counts(operation, peers.OURS if name == WITHOUT_NAMES else name, processes)
    if isinstance(found, str) or name != WITHOUT_NAMES:
        return found if isinstance(found, str) else spread(found)
    naming = counts(operation, peers.OURS, processes, NAMING)
    if isinstance(naming, str):
        return naming
    return spread([all_of_it - part for all_of_it, part in zip(found, naming, strict=True)])


def main() -> int:
    """Count, print and check."""
    parser = argparse.ArgumentParser(prog="python -m bench.callgrind", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counts here, for bench.report")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is lost")
    options = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    lost = 0
    for operation, (against, bound) in CALLGRIND.items():
        is_short = (options.check and not options.json) or against not in NAMES
        names = (peers.OURS, against) if is_short else NAMES
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
