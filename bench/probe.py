# SPDX-License-Identifier: Apache-2.0
"""Measure in a process of its own what a process does only once: import, fill memory, pile up.

``python -m bench.probe WHAT ARGUMENT...`` prints one JSON value.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import objects, peers

ROOT = Path(__file__).parents[1]


def ask(what: str, *arguments: object, python: str = sys.executable) -> Any:
    """Run this module in a fresh process.

    Parameters
    ----------
    what
        Name of a function below.
    *arguments
        Its arguments.
    python
        The interpreter.

    Returns
    -------
    object
        What the function returned.

    Raises
    ------
    RuntimeError
        With the last lines of stderr, if the process fails.
    """
    # tvm_ffi imports torch where it is installed: seconds a process, and nothing here uses it.
    start = "import sys; sys.modules['torch'] = None; from bench import probe; probe.main()"
    command = [python, "-c", start, what, *map(str, arguments)]
    # Threads of NumPy's, which tvm_ffi imports, spin for a while after they have started.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode < 0:
        raise RuntimeError(f"killed by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"exit status {done.returncode}: {last}")
    return json.loads(done.stdout)


def loader(name: str) -> peers.Loader:
    """Open a loader that is known to be installed.

    Raises
    ------
    RuntimeError
        If it is not.
    """
    opened = peers.LOADERS[name]()
    if isinstance(opened, str):
        raise RuntimeError(opened)
    return opened


def images(opened: peers.Loader, obj: str, count: int, folder: str) -> list[str]:
    """Return the path for each of ``count`` loads; a shared library is copied for each."""
    path = opened.path(Path(obj))
    if opened.image == "shared":
        return objects.copies(Path(path), count, Path(folder))
    return [path] * count


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Rss in /proc/self/smaps_rollup")


def import_time(module: str) -> float:
    """Return the seconds that importing a module takes beyond ``import tvm_ffi``."""
    importlib.import_module("tvm_ffi")
    start = time.perf_counter()
    importlib.import_module(module)
    return time.perf_counter() - start


def memory(name: str, obj: str, count: str) -> float:
    """Return the resident bytes that each of ``count`` loaded modules adds, after a first 100."""
    opened = loader(name)
    warm = 100
    with tempfile.TemporaryDirectory() as folder:
        paths = images(opened, obj, warm + int(count), folder)
        kept = [opened.load(path) for path in paths[:warm]]
        gc.collect()
        before = resident()
        for path in paths[warm:]:
            kept.append(opened.load(path))
            kept[-1][-1](1, 2)
        gc.collect()
        return (resident() - before) / int(count)


def first_and_last(name: str, obj: str, count: str) -> list[float]:
    """Return the mean seconds a load, of the first and of the last 1,000 of ``count`` loads."""
    opened = loader(name)
    means: list[float] = []
    window = 1000
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        paths = images(opened, obj, int(count), folder)
        opened.load(paths[0])
        kept: list[Any] = []
        for first in range(0, int(count), window):
            start = time.perf_counter()
            for path in paths[first : first + window]:
                kept.append(opened.load(path))
                kept[-1][-1](1, 2)
            means.append((time.perf_counter() - start) / len(paths[first : first + window]))
    return [means[0], means[-1]]


def resident_loads(name: str, obj: str, count: str) -> float:
    """Return the mean seconds a load, of ``count`` loads kept loaded in one session."""
    opened = loader(name)
    with tempfile.TemporaryDirectory() as folder:
        warm, *paths = images(opened, obj, int(count) + 1, folder)
        kept = [opened.load(warm)]
        gc.disable()
        start = time.perf_counter()
        for path in paths:
            kept.append(opened.load(path))
            kept[-1][-1](1, 2)
        return (time.perf_counter() - start) / len(paths)


def median_load(name: str, obj: str, count: str) -> float:
    """Return the median seconds a load, of ``count`` loads kept loaded in one session.

    The median: how long new memory takes depends on what the machine did before.
    """
    opened = loader(name)
    path = opened.path(Path(obj))
    kept = [opened.load(path)]
    taken: list[float] = []
    for _ in range(int(count)):
        start = time.perf_counter()
        kept.append(opened.load(path))
        kept[-1][-1](1, 2)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def among(name: str, obj: str, count: str, what: str) -> float:
    """Return the median seconds of something done in a process where ``count`` modules stay.

    Of ``call``, a call of one of them; ``load``, a load with look-up and call; ``unload``, dropping
    what was loaded so.
    """
    opened = loader(name)
    with tempfile.TemporaryDirectory() as folder:
        rounds = 200
        *paths, spare = images(opened, obj, int(count) + 1, folder)
        kept = [opened.load(path) for path in paths]
        for loaded in kept:
            assert loaded[-1](1, 2) == 3
        gc.collect()
        gc.disable()
        taken: list[float] = []
        for index in range(rounds):
            start = time.perf_counter()
            if what == "call":
                kept[index * 7919 % len(kept)][-1](1, 2)
                taken.append(time.perf_counter() - start)
                continue
            more = [opened.load(spare)]
            more[-1][-1](1, 2)
            if what == "unload":
                start = time.perf_counter()
                if opened.release:
                    opened.release(more[-1])
                more.clear()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


def threads(name: str, obj: str, count: str, workers: str) -> float:
    """Return the seconds a load, of ``count`` loads into one session divided among threads."""
    opened = loader(name)
    with tempfile.TemporaryDirectory() as folder:
        paths = images(opened, obj, int(count) + 1, folder)
        kept: list[Any] = [opened.load(paths.pop())]
        gate = threading.Barrier(int(workers) + 1)
        failures: list[BaseException] = []

        def work(share: Sequence[str]) -> None:
            gate.wait()
            try:
                for path in share:
                    loaded = opened.load(path)
                    loaded[-1](1, 2)
                    kept.append(loaded)
            except BaseException as error:
                failures.append(error)

        shares = [paths[index :: int(workers)] for index in range(int(workers))]
        pool = [threading.Thread(target=work, args=(share,)) for share in shares]
        gc.disable()
        for thread in pool:
            thread.start()
        gate.wait()
        start = time.perf_counter()
        for thread in pool:
            thread.join()
        taken = time.perf_counter() - start
        if failures:
            raise failures[0]
        return taken / int(count)


def warm_up(name: str, obj: str, count: str, workers: str) -> float:
    """Return the seconds until ``count`` kernels are loaded, by ``load_all`` with workers."""
    opened = loader(name)
    with tempfile.TemporaryDirectory() as folder:
        paths = images(opened, obj, int(count) + 1, folder)
        kept: list[Any] = [opened.load(paths.pop())]
        gc.disable()
        start = time.perf_counter()
        if workers != "0":
            package = importlib.import_module(peers.MODULES[name])
            session = package.Session()
            kept += [
                (dylib, dylib["add"]) for dylib in session.load_all(paths, threads=int(workers))
            ]
        else:
            kept += map(opened.load, paths)
        taken = time.perf_counter() - start
        assert [loaded[-1](1, 2) for loaded in kept] == [3] * (int(count) + 1)
        return taken


def processes(name: str, obj: str, count: str, workers: str) -> float:
    """Return the seconds a load, of ``count`` loads divided among processes that share nothing."""
    fork = multiprocessing.get_context("fork")  # Before any loader is opened, so nothing is shared.
    gate, times = fork.Barrier(int(workers)), fork.SimpleQueue()
    share = int(count) // int(workers)

    def work() -> None:
        opened = loader(name)
        with tempfile.TemporaryDirectory() as folder:
            paths = images(opened, obj, share + 1, folder)
            kept = [opened.load(paths.pop())]
            gc.disable()
            gate.wait()
            start = time.perf_counter()
            for path in paths:
                kept.append(opened.load(path))
                kept[-1][-1](1, 2)
            times.put(time.perf_counter() - start)

    pool = [fork.Process(target=work) for _ in range(int(workers))]
    for process in pool:
        process.start()
    for process in pool:
        process.join()
    if any(process.exitcode for process in pool):
        raise RuntimeError(f"exit codes {[process.exitcode for process in pool]}")
    return float(max(times.get() for _ in pool) / (share * int(workers)))


def received_library(data: bytes) -> Callable[..., Any]:
    """Return the function of a shared library that was sent."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(data)
        file.flush()
        kept = loader(peers.DLOPEN).load(file.name)
    function: Callable[..., Any] = kept[-1]
    return function


Receiver = Callable[[bytes], Callable[..., Any]]
SENT_LIBRARY = "a library sent, written to a file, dlopened"
RECEIVERS: dict[str, Receiver] = {peers.OURS: pickle.loads, SENT_LIBRARY: received_library}


def receive(name: str, path: str) -> float:
    """Return the seconds from what was sent to the first call, in a new process."""
    importlib.import_module("tvm_ffi")
    data = Path(path).read_bytes()
    start = time.perf_counter()
    function = RECEIVERS[name](data)
    assert function(1, 2) == 3
    return time.perf_counter() - start


def load_times(obj: str, count: str) -> list[float]:
    """Return the seconds of each of ``count`` loads of an object by this package."""
    opened = loader(peers.OURS)
    opened.load(obj)
    taken = []
    for _ in range(int(count)):
        start = time.perf_counter()
        kept = opened.load(obj)
        kept[-1](1, 2)
        taken.append(time.perf_counter() - start)
        del kept
    return taken


def llvm() -> str:
    """Return the version of the LLVM that this package is built on, and how it is linked."""
    version = importlib.import_module("tvm_ffi_object_loader._native").llvm_version
    linked = "shared" if "/libLLVM" in Path("/proc/self/maps").read_text() else "static"
    return f"{version}, {linked}"


PROBES: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(import_time, memory, first_and_last, resident_loads, median_load),
        *(among, threads, warm_up, processes, receive, load_times, llvm),
    )
}


def main() -> None:
    """Run the function named on the command line."""
    print(json.dumps(PROBES[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
