# SPDX-License-Identifier: Apache-2.0
"""Time the trials of an autotuner: load, call, compare, and time ten calls five times.

``python -m bench.trials warm COUNT`` runs the search of docs/autotuner.md, whose files have to be
importable; ``python -m bench.trials processes COUNT`` links a library and starts a process for
each. Either prints the seconds a trial, with two at a time if there are two cores.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import objects, recipes

WORKERS = min(2, len(os.sched_getaffinity(0)))
SIZE = 1 << 16


def candidate() -> list[Path]:
    """Return the objects of a candidate: what takes the arrays apart, and the kernel."""
    page = importlib.import_module("scale")
    kernel = objects.compile_c(page.KERNEL, "kernel", "-O3", "-DSTEP=64")
    return [recipes.compile_source(page.WRAPPER, "scale"), kernel]


def warm(count: int) -> float:
    """Return the seconds a trial in worker processes, with what it takes to start them."""
    import numpy

    autotune = importlib.import_module("autotune")
    paths = candidate()
    x = numpy.arange(SIZE, dtype="float32")
    start = time.perf_counter()
    trials = autotune.search(
        dict.fromkeys(range(count), paths), "scale", x, 2 * x, workers=WORKERS, limit=60
    )
    taken = time.perf_counter() - start
    failures = {trial.failure for trial in trials.values()}
    assert failures == {""}, failures
    return taken / count


def processes(count: int) -> float:
    """Return the seconds a trial with ``cc -shared`` and a process each."""
    paths = candidate()
    with tempfile.TemporaryDirectory() as folder:

        def try_out(index: int) -> None:
            library = Path(folder, f"{index}.so")
            objects.run([*objects.link_command(paths[0], library), str(paths[1])])
            objects.run([sys.executable, "-m", "bench.trials", "trial", str(library)])

        start = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(try_out, range(count)))
        return (time.perf_counter() - start) / count


def trial(library: str) -> float:
    """Return the seconds of a call of the library's function, having compared its result."""
    import numpy
    import tvm_ffi

    x, y = numpy.arange(SIZE, dtype="float32"), numpy.empty(SIZE, dtype="float32")
    scale = tvm_ffi.load_module(library).scale
    scale(x, y)
    assert numpy.allclose(y, 2 * x)
    return min(timeit.repeat(lambda: scale(x, y), number=10)) / 10


if __name__ == "__main__":
    ways = {"warm": warm, "processes": processes}
    print(trial(sys.argv[2]) if sys.argv[1] == "trial" else ways[sys.argv[1]](int(sys.argv[2])))
