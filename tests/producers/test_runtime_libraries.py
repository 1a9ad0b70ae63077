# SPDX-License-Identifier: Apache-2.0
"""What compilers call beside the C library: OpenMP, vector math, quadruple precision, atomics."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain

SOURCES = Path(__file__).parent / "sources"
per_toolchain = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda chain: chain.name)

VECTOR_MATH = """
#include "safe_call.h"
#include <math.h>
EXPORT(vector) {
  static double x[64], y[64];
  static float z[64];
  for (int i = 0; i < 64; ++i) x[i] = (i + INT(0)) * 0.01;
  for (int i = 0; i < 64; ++i) y[i] = sin(x[i]) + exp(x[i]) + pow(x[i], 1.5) + log(x[i] + 1);
  for (int i = 0; i < 64; ++i) z[i] = cosf((float)x[i]) + expf((float)x[i]);
  double total = 0;
  for (int i = 0; i < 64; ++i) total += y[i] + z[i];
  RETURN(total * 1e9);
}
"""
QUADRUPLE = """
#include "safe_call.h"
#include <stdio.h>
extern __float128 sqrtq(__float128), expq(__float128), strtoflt128(const char*, char**);
extern int quadmath_snprintf(char*, size_t, const char*, ...);
EXPORT(quadruple) {
  char text[80];
  __float128 number = sqrtq((__float128)INT(0)) + expq(1) / 3;
  quadmath_snprintf(text, sizeof(text), "%.30Qf", number);
  int64_t hash = 0;
  for (char* c = text; *c; ++c) hash = hash * 31 + *c;
  RETURN(hash + (int64_t)(strtoflt128(text, NULL) * 1000));
}
"""
ATOMIC = """
#include "safe_call.h"
#include <stdatomic.h>
typedef struct { int64_t a, b; } Pair;
typedef struct { int64_t values[5]; } Many;
static _Atomic Pair pair;
static _Atomic Many many;
static _Atomic __int128 wide;
EXPORT(atomic) {
  Pair old = atomic_load(&pair), next = {old.a + INT(0), old.b + 1};
  int done = atomic_compare_exchange_strong(&pair, &old, next);
  Many copy = atomic_load(&many);
  copy.values[3] += INT(0);
  atomic_store(&many, copy);
  wide += (__int128)INT(0) << 70;
  int64_t sum = atomic_load(&pair).a * 10 + atomic_load(&many).values[3] * 1000;
  RETURN(done + sum + (int64_t)(wide >> 70) * 1000000 + atomic_is_lock_free(&many));
}
"""


def library(toolchain: Toolchain, name: str) -> Path:
    """Return a library that the compiler finds, or skip the test."""
    command = [toolchain.cc, f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"{name} is not here")
    return path


def results(functions: tol.Dylib | tvm_ffi.Module, *names: str) -> list[int]:
    return [functions.get_function(name)(n) for name in names for n in (5, 20)]


def dlopened(compile: Compiler, path: Path, of: Path) -> tvm_ffi.Module:
    return tvm_ffi.load_module(compile.link(path, of, flags=(f"-Wl,-rpath,{of.parent}",)))


def missing(path: Path, start: str) -> set[str]:
    """Return which symbols of these the object lacks, and no library has that all code sees.

    PyTorch's OpenMP is such a library once it is imported.
    """
    said = subprocess.run(["nm", "-u", path], check=True, capture_output=True, text=True).stdout
    process = ctypes.CDLL(None)
    return {name for name in re.findall(rf"\b(?:{start})\w*", said) if not hasattr(process, name)}


KEPT: list[tvm_ffi.Module] = []
OPENMP = ("sum", "tasks", "team", "simd")


@pytest.mark.parametrize(
    ("toolchain", "name"),
    [
        pytest.param(GCC, "libgomp.so", id="gcc, libgomp.so"),
        pytest.param(GCC, "libgomp.a", id="gcc, libgomp.a"),
        pytest.param(CLANG, "libomp.so", id="clang, libomp.so"),
    ],
)
def test_openmp(
    session: tol.Session, compile: Compiler, toolchain: Toolchain | None, name: str
) -> None:
    if toolchain is None:
        pytest.skip("clang is not here")
    source = (SOURCES / "openmp.c").read_text()
    flags = ("-O1", "-fPIC", "-fopenmp")
    if toolchain is CLANG:
        # Its omp.h comes with libomp, which has the whole of OpenMP's interface that is used.
        source = source.replace("#include <omp.h>", "extern int omp_get_thread_num(void);")
    path = compile(source, *flags, toolchain=toolchain, name="openmp")
    runtime = library(toolchain, name)
    if lacking := missing(path, "GOMP_|__kmpc_|omp_"):
        with pytest.raises(tol.UndefinedSymbolError) as caught:
            session.load(path)
        assert set(caught.value.symbols) == lacking
    shared = library(toolchain, name.replace(".a", ".so"))
    expected = results(dlopened(compile, path, shared), *OPENMP)
    assert expected[2:4] == [5, 6765]
    if runtime.suffix == ".so":
        assert results(session.load([path, runtime]), *OPENMP) == expected
        assert results(session.load(path, link_order=[runtime]), *OPENMP) == expected
    else:
        # Its threads wait for work as long as the process runs.
        KEPT.append(tol.load_module([path, runtime]))
        assert results(KEPT[-1], *OPENMP) == expected


@per_toolchain
def test_vector_math(session: tol.Session, compile: Compiler, toolchain: Toolchain) -> None:
    """The C library's, which nothing need name: it is found in the package's own dependencies."""
    flags = ["-O3", "-ffast-math", "-fPIC"]
    if toolchain is not GCC:
        flags.append("-fveclib=libmvec")
    path = compile(VECTOR_MATH, *flags, toolchain=toolchain, name="vector")
    said = subprocess.run(["nm", "-u", path], check=True, capture_output=True, text=True).stdout
    assert re.search(r"_ZGVbN2v_sin\b", said)
    library(GCC, "libmvec.so")
    expected = results(tvm_ffi.load_module(compile.link(path, flags=("-lm",))), "vector")
    assert results(session.load(path), "vector") == expected


@per_toolchain
@pytest.mark.parametrize(
    ("source", "name", "runtime"),
    [(QUADRUPLE, "quadruple", "quadmath"), (ATOMIC, "atomic", "atomic")],
    ids=["libquadmath", "libatomic"],
)
def test_shared_and_static(
    session: tol.Session,
    compile: Compiler,
    source: str,
    name: str,
    runtime: str,
    toolchain: Toolchain,
) -> None:
    path = compile(source, "-O2", "-fPIC", "-w", toolchain=toolchain, name=name)
    if missing(path, "sqrtq|__atomic_"):
        with pytest.raises(tol.UndefinedSymbolError, match=r"sqrtq|__atomic_"):
            session.load(path)
    shared = library(GCC, f"lib{runtime}.so")
    expected = results(dlopened(compile, path, shared), name)
    assert results(session.load(path, link_order=[shared]), name) == expected
    assert results(session.load([path, library(GCC, f"lib{runtime}.a")]), name) == expected
