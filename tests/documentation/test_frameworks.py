# SPDX-License-Identifier: Apache-2.0
"""docs/frameworks.md: arrays of NumPy, PyTorch and JAX in loaded code, and back, without a copy."""

from __future__ import annotations

import gc
import importlib
import shutil
import weakref
from typing import Any

import numpy
import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from packages import requires
from pages import Page
from releases import needs

PAGE = Page("docs/frameworks.md")

pytestmark = [
    PAGE.needed,
    pytest.mark.skipif(shutil.which("ninja") is None, reason="ninja is not installed"),
    needs("objects of its build_inline"),
    needs("allocators"),
]

TORCH = requires("torch", "PyTorch")
JAX = requires("jax_tvm_ffi", "jax-tvm-ffi")


@pytest.fixture
def names(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return the names that the page has before its sections, with the module."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches"))
    names: dict[str, Any] = {}
    PAGE.run(names, under="NumPy, PyTorch and JAX")
    return names


def test_numpy_example(names: dict[str, Any]) -> None:
    assert PAGE.run(names, under="NumPy") == 2
    assert names["first"].ctypes.data == names["x"].ctypes.data


@TORCH
def test_pytorch_example(names: dict[str, Any]) -> None:
    import torch

    assert PAGE.run(names, under="PyTorch") == 3
    assert type(names["first"]) is torch.Tensor
    scaled = names["module"].scaled(names["x"], 1.0)
    assert type(scaled) is torch.Tensor
    assert scaled.data_ptr() != names["x"].data_ptr()


@JAX
@pytest.mark.filterwarnings("ignore")  # what JAX's own modules do while they are imported
def test_jax_example(names: dict[str, Any]) -> None:
    import jax

    assert PAGE.run(names, under="JAX") == 2
    assert isinstance(names["first"], jax.Array)
    with pytest.raises(RuntimeError, match="allocator"):
        names["module"].scaled(names["x"], 2.0)


@JAX
@pytest.mark.filterwarnings("ignore")
def test_a_program_of_jax_has_the_result_written_where_it_is(compile: Compiler) -> None:
    import jax
    import jax_tvm_ffi

    source = """
    #include <tvm/ffi/container/tensor.h>
    #include <tvm/ffi/function.h>
    static void Address(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
      static_cast<void**>(y.data_ptr())[0] = x.data_ptr();
      static_cast<void**>(y.data_ptr())[1] = y.data_ptr();
    }
    TVM_FFI_DLL_EXPORT_TYPED_FUNC(address, Address)
    """
    address = tol.load_module(compile.cxx(source)).address
    jax_tvm_ffi.register_ffi_target("frameworks.address", address, platform="cpu")
    shape = jax.ShapeDtypeStruct((1024,), "uint32")
    program = jax.jit(lambda x: jax.ffi.ffi_call("frameworks.address", shape)(x))
    x = jax.numpy.ones(1024, "float32")
    y = program(x)
    found = numpy.asarray(y).view("uint64")[:2].tolist()
    assert found == [x.unsafe_buffer_pointer(), y.unsafe_buffer_pointer()]


FRAMEWORKS = [
    "numpy",
    pytest.param("torch", marks=TORCH),
    pytest.param("jax.numpy", marks=[JAX, pytest.mark.filterwarnings("ignore")]),
]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_unfit_arrays_are_refused(names: dict[str, Any], framework: str) -> None:
    library, module = importlib.import_module(framework), names["module"]
    x, integers = library.ones(6, dtype=library.float32), library.ones(6, dtype=library.int32)
    y = numpy.zeros(6, dtype="float32")
    for wrong, error, why in (
        (integers, TypeError, "not float32"),
        (x[:4], ValueError, "of different sizes"),
        ([1.0] * 6, TypeError, "Mismatched type"),
    ):
        with pytest.raises(error, match=why):
            module.scale(wrong, 2.0, y)
    with pytest.raises(ValueError, match="there are 6"):
        module.head(x, 7)
    assert not y.any()


@pytest.mark.parametrize("framework", FRAMEWORKS[:2])
def test_arrays_with_gaps_are_refused(names: dict[str, Any], framework: str) -> None:
    library = importlib.import_module(framework)
    matrix = library.ones((4, 4), dtype=library.float32)
    for gaps in (matrix[:, 1], matrix[:, ::2], matrix.T):
        with pytest.raises(ValueError, match="not contiguous"):
            names["module"].scale(gaps, 2.0, library.zeros_like(gaps))


def test_what_numpy_cannot_pass(names: dict[str, Any]) -> None:
    x = numpy.ones(4, dtype="float32")
    with pytest.raises(RuntimeError, match="allocator"):
        names["module"].scaled(x, 2.0)
    x.flags.writeable = False
    with pytest.raises(BufferError, match="readonly"):
        names["module"].scale(numpy.ones(4, dtype="float32"), 2.0, x)


@TORCH
def test_autograd_of_pytorch_sees_nothing(names: dict[str, Any]) -> None:
    import torch

    x, y = torch.ones(4, requires_grad=True), torch.empty(4)
    names["module"].scale(x, 2.0, y)
    assert y.tolist() == [2] * 4
    assert not y.requires_grad


def test_a_result_keeps_the_memory_of_its_argument(names: dict[str, Any]) -> None:
    x = numpy.arange(4, dtype="float32")
    kept = weakref.ref(x)
    first = numpy.from_dlpack(names["module"].head(x, 2))
    del x
    assert kept() is not None
    assert first.tolist() == [0, 1]
    del first
    gc.collect()
    assert kept() is None
