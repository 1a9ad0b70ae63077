# SPDX-License-Identifier: Apache-2.0
"""Sessions, imports, memory, sizes, threads, and what happens as modules pile up."""

from __future__ import annotations

import functools
import importlib.metadata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import objects, peers, probe
from bench.interleave import Measure, Sampler, operation_sampler
from bench.targets import PEER_WHEEL, PEER_WHEEL_BYTES

RIVALS = (peers.OURS, peers.DLOPEN, peers.PEER)


def in_process_of_its_own(name: str, what: str, *arguments: object) -> Sampler | str:
    """Return a sampler that asks a fresh process, or why there is none."""
    if name in peers.MODULES and isinstance(reason := peers.imported(peers.MODULES[name]), str):
        return reason
    return functools.partial(probe.ask, what, *arguments)


def test_new_session(measure: Measure) -> None:
    """Make a session."""
    makers = {name: peers.open_session(name) for name in peers.MODULES}
    competitors: dict[str, Sampler | str] = {
        name: maker if isinstance(maker, str) else operation_sampler(maker)
        for name, maker in makers.items()
    }
    measure("session/new", competitors, rounds=100)


def test_first_load_of_a_session(measure: Measure) -> None:
    """Make a session and load its first object: what a session puts off is paid here."""
    obj = str(objects.c_object())

    def first(name: str) -> Any:
        kept = probe.loader(name).load(obj)
        assert kept[-1](1, 2) == 3
        return kept

    competitors: dict[str, Sampler | str] = {
        name: reason
        if isinstance(reason := peers.imported(module), str)
        else operation_sampler(functools.partial(first, name))
        for name, module in peers.MODULES.items()
    }
    measure("session/first_load", competitors, rounds=100)


def test_import(measure: Measure) -> None:
    """Import the package, beyond ``import tvm_ffi``."""
    competitors = {
        name: in_process_of_its_own(name, "import_time", module)
        for name, module in peers.MODULES.items()
    }
    measure("import/time", competitors, rounds=20)


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_memory(measure: Measure, language: str) -> None:
    """Keep 1,000 modules loaded and see what each adds to the resident memory."""
    obj = objects.c_object() if language == "c" else objects.cpp_object()
    competitors = {name: in_process_of_its_own(name, "memory", name, obj, 1000) for name in RIVALS}
    measure(f"memory/{language}", competitors, rounds=5, warm_up=False, unit="B")


def installed_files(name: str) -> list[Path] | str:
    """Return the files of an installed distribution, or why there are none."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    paths = [Path(str(file.locate())) for file in files]
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


def total(name: str, size: Callable[[Path], int], suffix: str = "") -> Sampler | str:
    """Return a sampler of the summed size of a distribution's files."""
    files = installed_files(name)
    if isinstance(files, str):
        return files
    value = sum(size(path) for path in files if path.name.endswith(suffix))
    return (lambda: float(value)) if value else "installed without its files (editable)"


CONTENT_COUNTS = {18: 200, 20: 100, 22: 40, 24: 10, 26: 4}


@pytest.mark.parametrize("power", CONTENT_COUNTS)
@pytest.mark.parametrize("kind", ["constants", "data"])
def test_content_that_stays(measure: Measure, kind: str, power: int) -> None:
    """Load an object with large constants or data again and again; all of it stays."""
    obj = objects.content_object(kind, 2**power)
    count = CONTENT_COUNTS[power]
    competitors = {
        name: in_process_of_its_own(name, "median_load", name, obj, count)
        for name in (peers.OURS, peers.PEER)
    }
    measure(f"content/{kind}/{2**power}/kept", competitors, rounds=9, warm_up=False)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("throws", "call"), ("throws", "unload"), ("thread_local", "load")],
)
def test_among_many(measure: Measure, quick: bool, kind: str, what: str) -> None:
    """Throw, unload, or load something thread-local, with 10 modules and with 5,000 that stay."""
    obj = objects.throws_object() if kind == "throws" else objects.thread_local_object()
    many = 500 if quick else 5000
    counts = {"many modules": many, "10 modules": 10}
    competitors: dict[str, Sampler | str] = {
        title: in_process_of_its_own(peers.OURS, "among", peers.OURS, obj, count, what)
        for title, count in counts.items()
    }
    # What the others do with thread-local variables is in the table of what loads.
    for name in (peers.DLOPEN, peers.PEER) if kind == "throws" else ():
        competitors[f"{name}, 10 modules"] = in_process_of_its_own(
            name, "among", name, obj, 10, what
        )
    extra = {"subject": "many modules", "count": many}
    measure(f"among/{kind}/{what}", competitors, rounds=7, warm_up=False, **extra)


def test_wheel_size(measure: Measure, request: pytest.FixtureRequest) -> None:
    """Weigh the wheel: the one given by --wheel, or else the installed files compressed again."""
    competitors = {
        name: total(name, lambda path: len(zlib.compress(path.read_bytes(), 6)))
        for name in peers.MODULES
    }
    if wheel := request.config.getoption("--wheel"):
        weight = float(Path(wheel).stat().st_size)
        competitors[peers.OURS] = lambda: weight
    competitors[PEER_WHEEL] = lambda: PEER_WHEEL_BYTES
    estimate = "installed files, compressed again"
    notes = {peers.OURS: "the wheel itself" if wheel else estimate, peers.PEER: estimate}
    extra = {"unit": "B", "notes": notes}
    measure("size/wheel", competitors, rounds=1, quick_rounds=1, warm_up=False, **extra)


def test_extension_size(measure: Measure) -> None:
    """Weigh the extension."""
    competitors = {
        name: total(name, lambda path: path.stat().st_size, ".so") for name in peers.MODULES
    }
    measure("size/extension", competitors, rounds=1, quick_rounds=1, warm_up=False, unit="B")


def test_two_threads(measure: Measure, quick: bool) -> None:
    """Load 1,000 C++ objects with one thread and with two, and in two processes."""
    count = 200 if quick else 1000
    obj = objects.cpp_object()
    competitors: dict[str, Sampler | str] = {}
    for workers, title in ((2, "2 threads"), (1, "1 thread")):
        competitors[title] = in_process_of_its_own(
            peers.OURS, "threads", peers.OURS, obj, count, workers
        )
        for name in (peers.DLOPEN, peers.PEER):
            competitors[f"{name}, {title}"] = in_process_of_its_own(
                name, "threads", name, obj, count, workers
            )
    competitors["2 processes"] = in_process_of_its_own(
        peers.OURS, "processes", peers.OURS, obj, count, 2
    )
    extra = {"count": count}
    measure("threads/cpp", competitors, rounds=7, subject="2 threads", warm_up=False, **extra)


def test_warm_up(measure: Measure) -> None:
    """Load 300 C++ kernels, as a server does when it starts."""
    obj, count = objects.cpp_object(), 300
    competitors = {
        f"load_all, {workers} thread(s)": in_process_of_its_own(
            peers.OURS, "warm_up", peers.OURS, obj, count, workers
        )
        for workers in (2, 1)
    }
    for name in RIVALS:
        competitors[f"{name}, one by one"] = in_process_of_its_own(
            name, "warm_up", name, obj, count, 0
        )
    subject = "load_all, 2 thread(s)"
    measure("warm_up/300", competitors, rounds=9, subject=subject, warm_up=False, count=count)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_threads(measure: Measure, quick: bool, workers: int) -> None:
    """Load C++ objects with one to four threads."""
    count = 100 if quick else 400
    obj = objects.cpp_object()
    competitors = {
        name: in_process_of_its_own(name, "threads", name, obj, count, workers) for name in RIVALS
    }
    extra = {"curve": "threads", "x": workers}
    measure(f"growth/threads/{workers}", competitors, rounds=7, warm_up=False, **extra)


@pytest.mark.parametrize("count", [1, 10, 100, 1000, 10_000])
def test_resident_objects(measure: Measure, long_run: bool, count: int) -> None:
    """Load a growing number of C objects that all stay."""
    extra = {"curve": "objects", "x": count}
    if count > 1000 and not long_run:
        later: dict[str, Sampler | str] = dict.fromkeys(RIVALS, "not run: --long does")
        measure(f"growth/objects/{count}", later, rounds=1, warm_up=False, **extra)
        return
    obj = objects.c_object()
    competitors = {
        name: in_process_of_its_own(name, "resident_loads", name, obj, count) for name in RIVALS
    }
    rounds = 9 if count <= 1000 else 5
    measure(f"growth/objects/{count}", competitors, rounds=rounds, warm_up=False, **extra)


def test_load_after_many(measure: Measure, long_run: bool, quick: bool) -> None:
    """Load 50,000 C++ objects (10,000 without --long) that stay: the last against the first."""
    count = 50_000 if long_run else 3_000 if quick else 10_000
    last = f"loads {count - 1000:,} to {count:,}"
    waiting: tuple[list[float], list[float]] = ([], [])
    reason = peers.imported(peers.MODULES[peers.OURS])
    if isinstance(reason, str):
        measure("long/cpp", {last: reason, "first 1,000": reason}, rounds=1, subject=last)
        return

    def part(index: int) -> float:
        # Both figures come from one process: whichever is asked for first runs it.
        if not waiting[index]:
            means = probe.ask("first_and_last", peers.OURS, objects.cpp_object(), count)
            for queue, mean in zip(waiting, means, strict=True):
                queue.append(mean)
        return waiting[index].pop()

    samples: dict[str, Sampler | str] = {"first 1,000": lambda: part(0), last: lambda: part(1)}
    extra = {"quick_rounds": 1, "subject": last, "count": count}
    measure("long/cpp", samples, rounds=5, warm_up=False, **extra)
