# SPDX-License-Identifier: Apache-2.0
"""Numba: the object of a function that it compiled, called through a TVM-FFI function beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

numba = pytest.importorskip("numba", reason="the package numba is not here")

WRAPPER = """
#include "safe_call.h"
extern double kernel(int64_t, double) __asm__("NAME");
EXPORT(run) { RETURN(kernel(INT(0), args[1].v_float64) * 1e6); }
"""


def kernel(n: int, scale: float) -> float:
    total = 0.0
    for i in range(n):
        total += (i * i % 7) ** scale if i % 3 else -1.0
    return total


def test_a_compiled_function(session: tol.Session, compile: Compiler, tmp_path: Path) -> None:
    compiled = numba.cfunc(numba.float64(numba.int64, numba.float64))(kernel)
    library = compiled._library
    if not hasattr(library, "_get_compiled_object"):
        pytest.skip("this Numba does not give its objects")
    path = tmp_path / "kernel.o"
    path.write_bytes(library._get_compiled_object())
    wrapper = compile(WRAPPER.replace("NAME", compiled.native_name), name="wrapper")
    linked = tvm_ffi.load_module(compile.link(wrapper, path, flags=("-lm",)))
    dylib = session.load([wrapper, path])
    for n in (0, 10, 1000):
        expected = linked.run(n, 1.5)
        assert expected == pytest.approx(kernel(n, 1.5) * 1e6, rel=1e-9, abs=1)
        assert dylib["run"](n, 1.5) == expected
