# SPDX-License-Identifier: Apache-2.0
"""Objects that other projects' compilers make, with the shared library that they make of each."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import tvm_ffi

from bench import objects, peers

# CuTe translates functions from the source file that they are in, and importing it makes its
# runtime library's symbols global: it has a process of its own.
CUTE = """
import json
import sys

import cutlass
import cutlass.cute as cute


@cute.kernel
def add_one_kernel(a: cute.Tensor, b: cute.Tensor):
    block, _, _ = cute.arch.block_idx()
    thread, _, _ = cute.arch.thread_idx()
    index = block * 128 + thread
    if index < a.shape[0]:
        b[index] = a[index] + 1.0


@cute.jit
def kernel(a: cute.Tensor, b: cute.Tensor):
    blocks = (a.shape[0] + 127) // 128
    add_one_kernel(a, b).launch(grid=(blocks, 1, 1), block=(128, 1, 1))


@cute.jit
def host(a: cute.Tensor, b: cute.Tensor):
    for i in range(a.shape[0]):
        b[i] = a[i] + 1.0


if __name__ == "__main__":
    size = cute.sym_int()
    for function, space in ((kernel, "gmem"), (host, "generic")):
        tensor = cute.runtime.make_fake_compact_tensor(
            cutlass.Float32, (size,), memspace=getattr(cute.AddressSpace, space)
        )
        compiled = cute.compile(function, tensor, tensor, options="--enable-tvm-ffi")
        name = function.__name__
        compiled.export_to_c(f"{sys.argv[1]}/{name}.o", function_name=name)
    print(json.dumps(cute.runtime.find_runtime_libraries(enable_tvm_ffi=True)[0]))
"""


@dataclass(frozen=True)
class Produced:
    """What a producer makes of one module.

    Parameters
    ----------
    objects
        Its objects.
    library
        The shared library that the producer makes, or documents how to make.
    call
        Looks one function up in a loaded module, and calls it.
    needs
        Shared libraries that the objects need, and the process may not have.
    """

    objects: tuple[str, ...]
    library: str
    call: Callable[[Any], object]
    needs: tuple[str, ...] = ()


@functools.cache
def folder() -> Path:
    """Return a folder for what is made; it stays for as long as the process runs."""
    made = tempfile.TemporaryDirectory(prefix="bench-producers-")
    folder.__dict__["made"] = made
    return Path(made.name)


@functools.cache
def cute(name: str) -> Produced | str:
    """Return CuTe DSL's object of a kernel, or of a function of the host.

    The kernel is called with a number of arguments that it refuses, as there may be no GPU.
    """
    if not importlib.util.find_spec("nvidia_cutlass_dsl"):
        return "not installed: nvidia-cutlass-dsl"
    script = folder() / "cute.py"
    script.write_text(CUTE)
    command = [sys.executable, str(script), str(folder())]
    environment = {**os.environ, "CUTE_DSL_ARCH": "sm_90a"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or [''])[-1]}"
    runtime = json.loads(done.stdout.splitlines()[-1])
    path = folder() / f"{name}.o"
    library = str(path.with_suffix(".so"))
    rpath = f"-Wl,-rpath,{Path(runtime).parent}"
    objects.run([*objects.link_command(path, Path(library), rpath), runtime])
    arrays = arrays_of(1 if name == "kernel" else 2)

    def call(module: Any) -> object:
        try:
            return module.get_function(name)(*arrays)
        except TypeError:
            return None

    return Produced((str(path),), library, call, (runtime,))


@functools.cache
def te() -> Produced | str:
    """Return TVM's object of a function of TE, which adds two arrays."""
    if isinstance(tvm := peers.imported("tvm"), str):
        return f"{tvm}: apache-tvm"
    te_module, tirx = importlib.import_module("tvm.te"), importlib.import_module("tvm.tirx")
    size = tirx.Var("n", "int32")
    inputs = [te_module.placeholder((size,), name=f"X{i}", dtype="float32") for i in range(2)]
    result = te_module.compute((size,), lambda i: inputs[0][i] + inputs[1][i], name="Y")
    function = te_module.create_prim_func([*inputs, result]).with_attr("global_symbol", "add")
    arrays = arrays_of(3)
    return exported(
        tvm.compile(tvm.IRModule({"add": function}), target="llvm"),
        "te",
        lambda module: module.get_function("add")(*arrays),
    )


@functools.cache
def network() -> Produced | str:
    """Return TVM's objects of a network of Relax, which has 12 MiB of weights in it."""
    if isinstance(tvm := peers.imported("tvm"), str):
        return f"{tvm}: apache-tvm"
    relax = importlib.import_module("tvm.relax")
    nn = importlib.import_module("tvm.relax.frontend.nn")
    layer = nn.Linear(1024, 3072)
    network = type("Network", (nn.Module,), {"forward": lambda self, x: nn.op.relu(layer(x))})()
    network.layer = layer
    inputs = {"forward": {"x": nn.spec.Tensor((1, 1024), "float32")}}
    module, parameters = network.export_tvm(inputs)
    weights = {
        name: numpy.ones([int(size) for size in parameter.shape], "float32")
        for name, parameter in parameters
    }
    module = relax.transform.BindParams("forward", weights)(module)
    compiled = tvm.compile(relax.get_pipeline("zero")(module), target="llvm")
    argument = tvm.runtime.tensor(numpy.ones((1, 1024), "float32"))
    return exported(
        compiled,
        "network",
        lambda module: relax.VirtualMachine(module, tvm.cpu())["forward"](argument),
    )


def exported(compiled: Any, name: str, call: Callable[[Any], object]) -> Produced:
    """Export what TVM compiled, as it does for itself: as objects in a ``.tar``, and a library."""
    import tarfile

    library, tar = folder() / f"{name}.so", folder() / f"{name}.tar"
    compiled.export_library(str(library))
    compiled.export_library(str(tar))
    extracted = folder() / name
    with tarfile.open(tar) as archive:
        archive.extractall(extracted, filter="data")
    return Produced(tuple(map(str, sorted(extracted.glob("*.o")))), str(library), call)


def arrays_of(count: int) -> list[tvm_ffi.Tensor]:
    """Return so many arrays of eight numbers."""
    return [tvm_ffi.from_dlpack(numpy.ones(8, "float32")) for _ in range(count)]


def loaders(produced: Produced) -> dict[str, Callable[[], Any] | str]:
    """Return what loads a module, by competitor, or why it can't."""

    def dlopen() -> Any:
        return tvm_ffi.load_module(produced.library, keep_module_alive=False)

    found: dict[str, Callable[[], Any] | str] = {peers.DLOPEN: dlopen}
    for name, libraries in ((peers.OURS, "libraries"), (peers.PEER, "")):
        package = peers.imported(peers.MODULES[name])
        if isinstance(package, str):
            found[name] = package
        elif libraries:
            session = package.Session(libraries=produced.needs)
            found[name] = functools.partial(session.load_module, produced.objects)
        elif produced.needs:
            found[name] = "takes no shared libraries"
        else:
            session = package.ExecutionSession()
            found[name] = functools.partial(session.load_module, produced.objects)
    return found
