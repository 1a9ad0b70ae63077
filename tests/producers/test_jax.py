# SPDX-License-Identifier: Apache-2.0
"""Functions of loaded objects in JAX's programs, by way of jax-tvm-ffi."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy
import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from packages import requires

pytestmark = [
    requires("jax_tvm_ffi", "jax-tvm-ffi"),
    # What JAX's own modules do while they are imported and compile.
    pytest.mark.filterwarnings("ignore"),
]

SOURCE = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
namespace ffi = tvm::ffi;
static void AddOne(ffi::TensorView x, ffi::TensorView y) {
  TVM_FFI_CHECK(x.size(0) < 1000, ValueError) << "x is too long: " << x.size(0);
  auto from = static_cast<const float*>(x.data_ptr());
  auto to = static_cast<float*>(y.data_ptr());
  for (int64_t i = 0; i < x.numel(); ++i) to[i] = from[i] + 1;
}
static void Address(ffi::TensorView x, ffi::TensorView y) {
  *static_cast<void**>(y.data_ptr()) = x.data_ptr();
}
static int64_t AddressOf(ffi::TensorView x) { return reinterpret_cast<int64_t>(x.data_ptr()); }
static ffi::Tensor Same(ffi::Tensor x) { return x; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(add_one, AddOne)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(address, Address)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(address_of, AddressOf)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(same, Same)
"""


@pytest.fixture(scope="session")
def functions_object(compile: Compiler) -> Path:
    return compile.cxx(SOURCE, name="for_jax")


def jitted(name: str, function: tvm_ffi.Function, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a compiled program of JAX's that calls the function."""
    import jax
    import jax_tvm_ffi

    jax_tvm_ffi.register_ffi_target(name, function, platform="cpu")
    result = jax.ShapeDtypeStruct(shape, dtype)
    return jax.jit(lambda x: jax.ffi.ffi_call(name, result)(x))


def ones(size: int) -> Any:
    import jax

    return jax.numpy.ones(size, "float32")


def test_programs_call_it_as_they_call_the_library(
    compile: Compiler, functions_object: Path
) -> None:
    loaded, library = tol.load_module(functions_object), compile.dlopen(functions_object)
    for size in (8, 2000):
        results = []
        for name, module in (("loaded", loaded), ("dlopened", library)):
            program = jitted(f"{name}.add_one.{size}", module["add_one"], (size,), "float32")
            try:
                results.append(numpy.asarray(program(ones(size))).tolist())
            except (RuntimeError, ValueError) as error:  # what it is depends on who waits for it
                results.append(str(error))
        assert results[0] == results[1]
        assert results[0] == [2] * 8 or "x is too long: 2000" in results[0]


def test_programs_pass_arrays_without_a_copy(functions_object: Path) -> None:
    address = tol.load_module(functions_object)["address"]
    program = jitted("loaded.address", address, (2,), "uint32")
    array = ones(512)
    found = numpy.asarray(program(array)).view("uint64")
    assert found.item() == array.unsafe_buffer_pointer()


def test_calls_take_and_return_arrays_without_a_copy(
    session: tol.Session, functions_object: Path
) -> None:
    import jax

    dylib, array = session.load(functions_object), ones(512)
    assert dylib["address_of"](array) == array.unsafe_buffer_pointer()
    returned = jax.dlpack.from_dlpack(dylib["same"](array))
    assert returned.unsafe_buffer_pointer() == array.unsafe_buffer_pointer()


def test_a_program_keeps_the_code(functions_object: Path) -> None:
    with tol.Session() as session:
        program = jitted("kept.add_one", session.load(functions_object)["add_one"], (8,), "float32")
        assert len(session.dylibs) == 1
        assert numpy.asarray(program(ones(8))).tolist() == [2] * 8
    with pytest.raises((RuntimeError, ValueError), match="is closed"):
        program(ones(8)).block_until_ready()


def test_a_program_that_carries_its_object(functions_object: Path) -> None:
    import jax
    import jax_tvm_ffi

    if not hasattr(jax_tvm_ffi, "ffi_call_from_object"):
        pytest.skip("this jax-tvm-ffi has no ffi_call_from_object")
    if importlib.util.find_spec("tvm_ffi_orcjit") is None:
        pytest.skip("apache-tvm-ffi-orcjit, which ffi_call_from_object imports, is not installed")
    loads = tol.default_session().stats().loads
    with tol.register_as_orcjit():
        result = jax.ShapeDtypeStruct((8,), "float32")
        content = functions_object.read_bytes()
        call = jax_tvm_ffi.ffi_call_from_object(content, "add_one", result, platform="cpu")
        assert numpy.asarray(jax.jit(call)(ones(8))).tolist() == [2] * 8
    assert tol.default_session().stats().loads == loads + 1
