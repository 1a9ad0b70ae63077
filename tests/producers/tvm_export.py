# SPDX-License-Identifier: Apache-2.0
"""Compile modules of TVM's, and export them as TVM does: as objects and as a shared library."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import tvm_ffi

from packages import requires

MARKS = [
    requires("tvm", "apache-tvm"),
    # What TVM's own modules do while they are imported and compile.
    pytest.mark.filterwarnings("ignore"),
]

Array = numpy.ndarray[Any, numpy.dtype[Any]]


class Exported:
    """The objects of a module that TVM compiled, and the shared library that it makes of them."""

    def __init__(self, compiled: Any, folder: Path) -> None:
        folder.mkdir()
        self.library, self.tar = folder / "module.so", folder / "module.tar"
        compiled.export_library(str(self.library))
        compiled.export_library(str(self.tar))
        with tarfile.open(self.tar) as tar:
            tar.extractall(folder, filter="data")
        self.files = sorted(folder.glob("*.[oc]"))

    def dlopen(self) -> tvm_ffi.Module:
        return tvm_ffi.load_module(str(self.library), keep_module_alive=False)


Export = Callable[..., Exported]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Compile a module of TVM's for a target, once for each name."""
    import tvm
    from tvm import relax

    folder = tmp_path_factory.mktemp("tvm")
    exported: dict[tuple[str, ...], Exported] = {}

    def compile_and_export(
        name: str, functions: Any, target: str = "llvm", **options: str
    ) -> Exported:
        key = (name, target, *options.values())
        if key not in exported:
            build = relax.build if options else tvm.compile
            compiled = build(functions(), target=target, **options)
            exported[key] = Exported(compiled, folder / "-".join(key))
        return exported[key]

    return compile_and_export


def compute(function: Any, *inputs: Array) -> Array:
    """Call a function whose last argument is where the result goes."""
    result = numpy.zeros_like(inputs[0])
    function(*map(tvm_ffi.from_dlpack, (*inputs, result)))
    return result


X, Y = numpy.linspace(-2, 5, 1000, dtype="float32"), numpy.ones(1000, "float32")


def relocatable(objects: list[Path], folder: Path) -> Path:
    path = folder / "together.o"
    subprocess.run(["ld", "-r", *map(str, objects), "-o", str(path)], check=True)
    return path
