# SPDX-License-Identifier: Apache-2.0
"""Large static archives, OpenBLAS and abseil: results are those of the shared libraries."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from outcomes import outcome

SOURCES = Path(__file__).parent / "sources"


def library(name: str) -> Path:
    """Return a library that g++ finds, or skip the test."""
    command = ["g++", f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"{name} is not here")
    return path.resolve()


def solved(functions: tol.Dylib | tvm_ffi.Module) -> list[Any]:
    function = functions.get_function
    sizes = (5, 100, 300)
    found = [function("threads")(2)]
    return [*found, *(function(name)(n) for name in ("multiply", "solve", "eigen") for n in sizes)]


def test_openblas(session: tol.Session, compile: Compiler) -> None:
    archive, shared = library("libopenblas.a"), library("libopenblas.so")
    include = [f"-I{folder}" for folder in sorted(Path("/usr/include").glob("*/openblas-pthread"))]
    if not include:
        pytest.skip("OpenBLAS's headers are not here")
    path = compile((SOURCES / "openblas.c").read_text(), "-O2", "-fPIC", *include, name="openblas")
    with pytest.raises(tol.UndefinedSymbolError) as caught:
        session.load(path)
    assert {"cblas_dgemm", "dgesv_", "dsyev_"} < set(caught.value.symbols)
    linked = compile.link(path, shared, flags=(f"-Wl,-rpath,{shared.parent}",))
    expected = solved(tvm_ffi.load_module(linked))
    assert expected[0] == 2
    # Its LAPACK is Fortran, or C, as it was built.
    dylib = session.load([path, archive], link_order=[library("libgfortran.so")])
    assert solved(dylib) == expected
    # With shared libraries beside it, or twice, each has its own threads and its own state.
    assert solved(session.load([path, shared])) == expected
    second = session.load([path, archive], link_order=[library("libgfortran.so")])
    assert second["threads"](1) == 1
    assert dylib.lookup("openblas_get_num_threads") != second.lookup("openblas_get_num_threads")
    assert solved(dylib) == expected


CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("words", ("the quick the lazy dog the",)),
    ("number", ("123",)),
    ("number", ("x1",)),
    ("locked", (4,)),
    ("time", (1_700_000_000,)),
]


def called(functions: tol.Dylib | tvm_ffi.Module) -> list[Any]:
    return [outcome(functions.get_function(name), *arguments) for name, arguments in CALLS]


def test_abseil(session: tol.Session, compile: Compiler) -> None:
    """Debian's archives are for executables: a linker makes no library of them."""
    folder = library("libabsl_base.a").parent
    archives, shared = (sorted(folder.glob(f"libabsl_*.{end}")) for end in ("a", "so"))
    path = compile.cxx((SOURCES / "abseil.cc").read_text(), "-O2", "-fPIC", name="abseil")
    expected = called(tvm_ffi.load_module(compile.link(path, *shared)))
    assert expected[2] == (ValueError, "INVALID_ARGUMENT: not a number: x1")
    dylib = session.load([path, *archives])
    assert called(dylib) == expected
    assert called(session.load([path, *shared])) == expected
    # The order of archives is no matter.
    assert called(session.load([*reversed(archives), path])) == expected
    dylib.close()
    assert called(session.load([path, *archives])) == expected
