# SPDX-License-Identifier: Apache-2.0
"""Functions that CuTe DSL compiles and exports: what they need is in its runtime library.

None of this needs a GPU: the functions say so, in the same words as through CuTe's own loader, or
compute on the host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from packages import requires

pytestmark = requires("nvidia_cutlass_dsl", "nvidia-cutlass-dsl")

NAMES = ("add_one", "reverse", "on_host")

# A process of its own compiles, and calls what CuTe's own loader loads: importing cutlass makes its
# runtime library's symbols global. CuTe translates the source of functions, from their file.
PRODUCER = """
import json
import sys

import cutlass
import cutlass.cute as cute
import numpy
import tvm_ffi


@cute.kernel
def add_one_kernel(a: cute.Tensor, b: cute.Tensor):
    block, _, _ = cute.arch.block_idx()
    thread, _, _ = cute.arch.thread_idx()
    index = block * 128 + thread
    if index < a.shape[0]:
        b[index] = a[index] + 1.0


@cute.jit
def add_one(a: cute.Tensor, b: cute.Tensor):
    blocks = (a.shape[0] + 127) // 128
    add_one_kernel(a, b).launch(grid=(blocks, 1, 1), block=(128, 1, 1))


@cute.kernel
def reverse_kernel(a: cute.Tensor, b: cute.Tensor):
    thread, _, _ = cute.arch.thread_idx()
    memory = cutlass.utils.SmemAllocator()
    shared = memory.allocate_tensor(cutlass.Float32, cute.make_layout(64))
    shared[thread] = a[thread]
    cute.arch.sync_threads()
    b[63 - thread] = shared[thread]


@cute.jit
def reverse(a: cute.Tensor, b: cute.Tensor):
    reverse_kernel(a, b).launch(grid=(1, 1, 1), block=(64, 1, 1))


@cute.jit
def on_host(a: cute.Tensor, b: cute.Tensor, scale: cutlass.Float32):
    for i in range(a.shape[0]):
        b[i] = a[i] * scale + 1.0


def tensor(size, space=cute.AddressSpace.gmem):
    make = cute.runtime.make_fake_compact_tensor
    return make(cutlass.Float32, (size,), memspace=space)


def export(function, *arguments):
    compiled = cute.compile(function, *arguments, options="--enable-tvm-ffi")
    name = function.__name__
    compiled.export_to_c(f"{folder}/{name}.o", function_name=name)
    return getattr(cute.runtime.load_module(f"{folder}/{name}.o", enable_tvm_ffi=True), name)


if __name__ == "__main__":
    from calls import results

    folder, claim = sys.argv[1], tvm_ffi.load_module(sys.argv[2])["claim"]
    length, host = cute.sym_int(), cute.AddressSpace.generic
    functions = [
        export(add_one, tensor(length), tensor(length)),
        export(reverse, tensor(64), tensor(64)),
        export(on_host, tensor(length, host), tensor(length, host), cutlass.Float32(1.0)),
    ]
    libraries = cute.runtime.find_runtime_libraries(enable_tvm_ffi=True)
    print(json.dumps([libraries, [results(function, claim) for function in functions]]))
"""

# What both processes call: each function with right and wrong arguments, on the host, and, where
# that does no harm, with tensors that claim to be on a GPU.
GPU = Path("/proc/driver/nvidia")
CALLS = f"""
import os

import numpy
import tvm_ffi

def results(function, claim):
    vector = numpy.arange(64, dtype="float32")
    output = numpy.zeros_like(vector)
    tensors = [tvm_ffi.from_dlpack(each) for each in (vector, output)]
    found = []
    for arguments in (
        (),
        tensors,
        (*tensors, 2.5),
        (1, 2),
        (None, *tensors),
        (tensors[0], *tensors),
        [tvm_ffi.from_dlpack(each) for each in (vector.astype("int32"), output)],
        [tvm_ffi.from_dlpack(each.reshape(8, 8)) for each in (vector, output)],
        [] if os.path.exists("{GPU}") else [claim(each) for each in tensors],
    ):
        try:
            found.append(repr(function(*arguments)))
        except Exception as error:
            found.append(type(error).__name__ + ": " + str(error))
    return [*found, output.tolist()]
"""

# What only a driver can make: a tensor that claims to be on a GPU.
CLAIM = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
namespace ffi = tvm::ffi;
static ffi::Tensor Claim(ffi::Tensor tensor) {
  DLManagedTensorVersioned* managed = tensor.ToDLPackVersioned();
  managed->dl_tensor.device = DLDevice{kDLCUDA, 0};
  return ffi::Tensor::FromDLPackVersioned(managed);
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(claim, Claim)
"""


class Cute(NamedTuple):
    """The objects, CuTe's runtime libraries, and what calls give that CuTe's own loader loads."""

    folder: Path
    libraries: list[str]
    results: dict[str, list[object]]
    claim: tvm_ffi.Module

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.o"

    def called(self, function: Any) -> list[object]:
        namespace: dict[str, Any] = {}
        exec(CALLS, namespace)
        found: list[object] = namespace["results"](function, self.claim["claim"])
        return found


@pytest.fixture(scope="session")
def cute(tmp_path_factory: pytest.TempPathFactory, compile: Compiler) -> Cute:
    folder = tmp_path_factory.mktemp("cute")
    script = folder / "producer.py"
    script.write_text(PRODUCER)
    (folder / "calls.py").write_text(CALLS)
    claim = compile.link(compile.cxx(CLAIM))
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(claim)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUTE_DSL_ARCH": "sm_90a"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    libraries, results = json.loads(done.stdout.splitlines()[-1])
    return Cute(
        folder, libraries, dict(zip(NAMES, results, strict=True)), tvm_ffi.load_module(str(claim))
    )


def by_objects(session: tol.Session, path: Path, libraries: list[str]) -> tol.Dylib:
    return session.load([path, *libraries])


def by_link_order(session: tol.Session, path: Path, libraries: list[str]) -> tol.Dylib:
    return session.load(path.read_bytes(), link_order=libraries)


def by_session(session: tol.Session, path: Path, libraries: list[str]) -> tol.Dylib:
    session.libraries = libraries[:1]  # what libtvm_ffi has, the process has
    return session.load(path)


def by_dylib(session: tol.Session, path: Path, libraries: list[str]) -> tol.Dylib:
    runtime = session.load(libraries[0], name="runtime")
    return session.load(path, link_order=[runtime])


@pytest.mark.parametrize("name", ["add_one", "reverse"])
@pytest.mark.parametrize("way", [by_objects, by_link_order, by_session, by_dylib])
def test_a_kernel_and_its_runtime_library(
    session: tol.Session, cute: Cute, name: str, way: Callable[..., tol.Dylib]
) -> None:
    dylib = way(session, cute.path(name), cute.libraries)
    assert dylib.functions == [name]
    results = cute.called(dylib[name])
    assert results == cute.results[name]
    shape = "[n0]" if name == "add_one" else "[64]"
    tensor = f"Tensor({shape}, float32)"
    signature = f"`{name}(a: {tensor}, b: {tensor})`"
    message = "ValueError: Mismatched Tensor on argument #0 when calling: {}, {}"
    assert message.format(signature, "expected device_type=cuda") in [
        " ".join(str(result).split()) for result in results
    ]
    # Only a launch finds out that there is no GPU.
    launched = any("Cuda Runtime Error: cudaError" in str(result) for result in results)
    assert launched == (not GPU.exists())


def test_without_the_runtime_library(session: tol.Session, cute: Cute) -> None:
    with pytest.raises(tol.UndefinedSymbolError) as caught:
        session.load(cute.path("add_one"))
    assert "_cudaLaunchKernelEx" in caught.value.symbols
    assert session.dylibs == {}
    # The error knows the library, which nobody has imported here.
    runtime = Path(cute.libraries[0]).name
    (named,) = caught.value.libraries
    assert Path(named).name == runtime
    kernel = session.load(cute.path("add_one"), link_order=caught.value.libraries)["add_one"]
    assert cute.called(kernel) == cute.results["add_one"]


def test_kernels_together(session: tol.Session, cute: Cute) -> None:
    session.libraries = cute.libraries[:1]
    dylib = session.load([cute.path(name) for name in NAMES[::-1]])
    assert dylib.functions == sorted(NAMES)
    for name in NAMES:
        assert cute.called(dylib[name]) == cute.results[name]


def test_a_function_of_the_host(session: tol.Session, cute: Cute, compile: Compiler) -> None:
    path = cute.path("on_host")
    results = cute.called(session.load(path)["on_host"])
    assert results[-1] == [i * 2.5 + 1 for i in range(64)]
    assert results == cute.results["on_host"] == cute.called(compile.dlopen(path).on_host)


def test_load_and_drop(session: tol.Session, cute: Cute) -> None:
    session.libraries = cute.libraries[:1]
    for _ in range(50):
        add_one = session.load(cute.path("add_one"))["add_one"]
        with pytest.raises(TypeError, match="Mismatched type on argument #0"):
            add_one(1, 2)
        del add_one
    assert session.dylibs == {}
    assert session.stats().loads == 50
