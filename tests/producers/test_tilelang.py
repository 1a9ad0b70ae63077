# SPDX-License-Identifier: Apache-2.0
"""Kernels that TileLang generates for the CPU, as C++: a wrapper is linked with their objects."""

from __future__ import annotations

import importlib
from typing import Any

import numpy
import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from outcomes import outcome
from packages import requires

pytestmark = [
    requires("tilelang", "tilelang"),
    # What TileLang's own modules, and PyTorch's, do while they are imported and compile.
    pytest.mark.filterwarnings("ignore"),
]

# TileLang reads the source of functions from their file.
KERNELS = """
import tilelang
from tilelang.cpu import language as T

SIZE, TILE = 64, 16


@T.prim_func
def multiply(
    A: T.Tensor((SIZE, SIZE), "float32"),
    B: T.Tensor((SIZE, SIZE), "float32"),
    C: T.Tensor((SIZE, SIZE), "float32"),
):
    with T.Kernel(SIZE // TILE, SIZE // TILE) as (x, y):
        tile = T.alloc_local((TILE, TILE), "float32")
        for i, j in T.grid(TILE, TILE):
            tile[i, j] = 0.0
        for k, i, j in T.grid(SIZE, TILE, TILE):
            tile[i, j] += A[y * TILE + i, k] * B[k, x * TILE + j]
        for i, j in T.grid(TILE, TILE):
            C[y * TILE + i, x * TILE + j] = tile[i, j]


@T.prim_func
def shift(
    A: T.Tensor((SIZE, SIZE), "float32"),
    B: T.Tensor((SIZE, SIZE), "float32"),
    C: T.Tensor((SIZE, SIZE), "float32"),
):
    with T.Kernel(SIZE) as row:
        for j in T.Parallel(SIZE):
            C[row, j] = T.if_then_else(j > 0, T.exp(A[row, j]), B[row, j] * 0.5)
"""

# TileLang's function takes bare pointers: a wrapper is compiled once, and linked with each of them.
WRAPPER = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
namespace ffi = tvm::ffi;
extern "C" int32_t call(float*, float*, float*);
static void Run(ffi::TensorView a, ffi::TensorView b, ffi::TensorView c) {
  auto data = [](ffi::TensorView x) { return static_cast<float*>(x.data_ptr()); };
  TVM_FFI_CHECK(call(data(a), data(b), data(c)) == 0, RuntimeError) << "the kernel failed";
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run)
"""


class Kernel:
    """A function that TileLang compiled, and the object of its source."""

    def __init__(self, name: str, kernels: Any, compile_cxx: Compiler) -> None:
        import tilelang
        from tilelang import env

        self.compiled = tilelang.compile(getattr(kernels, name), out_idx=-1, target="c")
        source = self.compiled.get_host_source()
        self.object = compile_cxx.cxx(
            source, "-std=c++17", "-fPIC", f"-I{env.TILELANG_TEMPLATE_PATH}", name=name
        )


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory, compile: Compiler) -> dict[str, Kernel]:
    folder = tmp_path_factory.mktemp("tilelang")
    (folder / "tilelang_kernels.py").write_text(KERNELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        module = importlib.import_module("tilelang_kernels")
        return {name: Kernel(name, module, compile) for name in ("multiply", "shift")}


@pytest.mark.parametrize("name", ["multiply", "shift"])
def test_kernels_of_the_cpu(
    session: tol.Session, kernels: dict[str, Kernel], compile: Compiler, name: str
) -> None:
    import torch

    kernel, wrapper = kernels[name], compile.cxx(WRAPPER, name="wrapper")
    run = session.load([wrapper, kernel.object])["run"]
    inputs = [
        torch.from_numpy(numpy.random.default_rng(seed).standard_normal((64, 64), "float32"))
        for seed in (1, 2)
    ]
    expected = kernel.compiled(*inputs)
    assert torch.count_nonzero(expected) == 64 * 64
    result = torch.zeros(64, 64)
    run(*inputs, result)
    assert torch.equal(result, expected)
    dlopened = torch.zeros(64, 64)
    compile.dlopen(wrapper, kernel.object).run(*inputs, dlopened)
    assert torch.equal(dlopened, expected)
    for wrong in ((), (*inputs, 5), (*inputs, result, result)):
        assert outcome(run, *wrong)[0] is TypeError
