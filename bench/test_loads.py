# SPDX-License-Identifier: Apache-2.0
"""Load + look up + first call: of small and large objects, against loaders and against linkers."""

from __future__ import annotations

import functools
import itertools
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

from bench import objects, peers, probe
from bench.interleave import Measure, Sampler, operation_sampler

SIZES = tuple(2**power for power in range(10, 25, 2))
COUNTS = (1, 10, 100, 1000, 10_000)
CONTENTS = tuple(2**power for power in range(18, 27, 2))
EMBEDDED = 13 << 20


def loads(obj: Path, names: Sequence[str] = tuple(peers.LOADERS)) -> dict[str, Sampler | str]:
    """Return a sampler of each loader's load + look up + first call of one object."""
    return {name: load_sampler(name, obj) for name in names}


def load_sampler(name: str, obj: Path, drop: bool = False) -> Sampler | str:
    """Return the sampler of one loader, or why there is none.

    Parameters
    ----------
    name
        The loader's.
    obj
        What is loaded.
    drop
        Whether letting go of it is timed as well.
    """
    opened = peers.LOADERS[name]()
    if isinstance(opened, str):
        return opened
    path = opened.path(obj)

    def load() -> Any:
        kept = opened.load(path)
        assert kept[-1](1, 2) == 3
        return kept

    def load_and_drop() -> None:
        load()

    try:
        return operation_sampler(load_and_drop) if drop else operation_sampler(load, opened.release)
    except Exception as error:
        if name == peers.OURS:
            raise
        return f"failed: {type(error).__name__}: {error}"[:300]


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_load(measure: Measure, language: str) -> None:
    """Load an object with one function."""
    obj = objects.c_object() if language == "c" else objects.cpp_object()
    measure(f"load/{language}", loads(obj), rounds=300)


def test_load_sections(measure: Measure) -> None:
    """Load an object with 3,200 sections of a function each."""
    measure("load/sections", loads(objects.sections_object(3200)), rounds=50)


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_link(measure: Measure, tmp_path: Path, language: str) -> None:
    """Link a shared library and dlopen it, with each linker."""
    obj = objects.c_object() if language == "c" else objects.cpp_object()
    opened = probe.loader(peers.DLOPEN)
    serial = itertools.count()

    def link(flags: Sequence[str]) -> Any:
        output = tmp_path / f"{next(serial)}.so"
        objects.run(objects.link_command(obj, output, *flags))
        kept = opened.load(str(output))
        assert kept[-1](1, 2) == 3
        return kept

    competitors: dict[str, Sampler | str] = {peers.OURS: load_sampler(peers.OURS, obj)}
    for name, flags in objects.linkers().items():
        competitors[name] = (
            flags
            if isinstance(flags, str)
            else operation_sampler(functools.partial(link, flags), most=1)
        )
    measure(f"link/{language}", competitors, rounds=30)


def test_llvm_versions(measure: Measure, request: pytest.FixtureRequest) -> None:
    """Load 3,200 sections with this package built on another LLVM, given by --other-python."""
    other = request.config.getoption("--other-python")
    obj = objects.sections_object(3200)
    if not other or isinstance(peers.imported("tvm_ffi_object_loader"), str):
        reason = "no --other-python given" if not other else "not installed"
        absent: dict[str, Sampler | str] = dict.fromkeys(("LLVM 22", "LLVM 23"), reason)
        measure("llvm/sections", absent, rounds=1, subject="LLVM 22")
        return

    def median(python: str) -> Callable[[], float]:
        return lambda: sorted(probe.ask("load_times", obj, 9, python=python))[4]

    builds: dict[str, Sampler | str] = {}
    notes: dict[str, str] = {}
    for python in (sys.executable, other):
        version = probe.ask("llvm", python=python)
        name = f"LLVM {version.partition('.')[0]}"
        builds[name], notes[name] = median(python), version
    for name in {"LLVM 22", "LLVM 23"} - set(builds):
        builds[name] = f"neither build is on it: {' and '.join(notes.values())}"
    extra = {"subject": "LLVM 22", "notes": notes}
    measure("llvm/sections", builds, rounds=15, warm_up=False, **extra)


@pytest.mark.parametrize("size", CONTENTS)
@pytest.mark.parametrize("kind", ["constants", "data"])
def test_content(measure: Measure, kind: str, size: int) -> None:
    """Load objects with large constants or data, call them and drop them."""
    obj = objects.content_object(kind, size)
    names = (peers.OURS, peers.PEER, peers.DLOPEN)
    competitors = {name: load_sampler(name, obj, drop=True) for name in names}
    measure(f"content/{kind}/{size}", competitors, rounds=60 if size < 1 << 24 else 20)


def test_embedded_module(measure: Measure) -> None:
    """Load an object that embeds a module of 13 MiB, as a network's weights are, and drop it."""
    kind = "bench_embedded"
    part = tvm_ffi.load_module(str(objects.shared(objects.c_object())))
    sizes: list[int] = []

    def load_part(content: bytes) -> tvm_ffi.Module:
        sizes.append(len(content))
        return part

    loader = f"ffi.Module.load_from_bytes.{kind}"
    tvm_ffi.register_global_func(loader, load_part, override=True)
    try:
        obj = objects.embedding_object(kind, EMBEDDED)
        names = (peers.OURS, peers.DLOPEN)
        competitors = {name: load_sampler(name, obj, drop=True) for name in names}
        measure("embedded/load", competitors, rounds=40)
    finally:
        tvm_ffi.remove_global_func(loader)
    assert set(sizes) == {EMBEDDED}


def test_archive(measure: Measure, tmp_path: Path) -> None:
    """Load an object with OpenBLAS's archive, of which it needs 10,000 members."""
    gold = "gold -shared + dlopen"
    archive = objects.openblas()
    if isinstance(archive, str) or not shutil.which("ld.gold"):
        why = archive if isinstance(archive, str) else "ld.gold is not installed"
        absent: dict[str, Sampler | str] = {peers.OURS: why, gold: why}
        measure("archive/openblas", absent, rounds=1)
        return
    package = peers.imported(peers.MODULES[peers.OURS])
    obj, opened = objects.blas_object(), probe.loader(peers.DLOPEN)
    serial = itertools.count()

    def load() -> Any:
        assert not isinstance(package, str)
        dylib = package.Session().load([obj, archive])
        assert dylib.get_function("add")(1, 2) == 3
        return dylib

    def link() -> Any:
        output = tmp_path / f"{next(serial)}.so"
        libraries = (str(archive), "-lpthread", "-lm")
        objects.run([*objects.link_command(obj, output, "-fuse-ld=gold"), *libraries])
        kept = opened.load(str(output))
        assert kept[-1](1, 2) == 3
        output.unlink()
        return kept

    competitors: dict[str, Sampler | str] = {
        peers.OURS: package if isinstance(package, str) else operation_sampler(load, most=1),
        gold: operation_sampler(link, most=1),
    }
    measure("archive/openblas", competitors, rounds=15, quick_rounds=2)


@pytest.mark.parametrize("size", SIZES)
def test_object_size(measure: Measure, size: int) -> None:
    """Load objects of growing size."""
    obj = objects.sized_object(size)
    names = (peers.OURS, peers.DLOPEN, peers.PEER)
    measure(f"growth/size/{size}", loads(obj, names), rounds=60, curve="size", x=size)


@pytest.mark.parametrize("count", COUNTS)
def test_symbols(measure: Measure, count: int) -> None:
    """Load objects with a growing number of global symbols."""
    obj = objects.symbols_object(count)
    names = (peers.OURS, peers.DLOPEN, peers.PEER)
    rounds = 60 if count <= 1000 else 20
    measure(f"growth/symbols/{count}", loads(obj, names), rounds=rounds, curve="symbols", x=count)
