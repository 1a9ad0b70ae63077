# SPDX-License-Identifier: Apache-2.0
"""Fortran: objects of gfortran with its runtime library, shared and static."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from outcomes import outcome

GFORTRAN = shutil.which("gfortran")
pytestmark = pytest.mark.skipif(GFORTRAN is None, reason="gfortran is not here")
SOURCE = Path(__file__).parent / "sources" / "functions.f90"

every_level = pytest.mark.parametrize(
    "flags", [("-O0", "-fcheck=all"), ("-O2",), ("-O3", "-g")], ids=" ".join
)


def gfortran(folder: Path, *arguments: object) -> None:
    assert GFORTRAN
    command = [GFORTRAN, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=300, cwd=folder)


def built(folder: Path, *flags: str) -> tuple[Path, Path]:
    """Return the object, and the library that gfortran links of it."""
    path, library = folder / "functions.o", folder / "functions.so"
    gfortran(folder, "-c", "-fPIC", *flags, SOURCE, "-o", path)
    gfortran(folder, "-shared", path, "-o", library)
    return path, library


def runtime(name: str) -> Path:
    assert GFORTRAN
    command = [GFORTRAN, f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"gfortran has no {name}")
    return path


def results(functions: tol.Dylib | tvm_ffi.Module) -> list[Any]:
    names = ["arrays", "text", "counted", "counted", "powers", "parsed"]
    return [outcome(functions.get_function(name), n) for name in names for n in (3, 10)]


@every_level
def test_with_the_shared_runtime_library(
    session: tol.Session, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    path, library = built(tmp_path, *flags)
    with pytest.raises(tol.UndefinedSymbolError, match="_gfortran_st_write") as caught:
        session.load(path)
    expected = results(tvm_ffi.load_module(str(library)))
    assert expected[-1] == (ValueError, "Bad integer for item 1 in list input")
    libraries = [runtime("libgfortran.so")]
    if "sqrtq" in caught.value.symbols:
        libraries.append(runtime("libquadmath.so"))
    assert results(session.load(path, link_order=libraries)) == expected
    assert results(session.load([path, *libraries])) == expected


@every_level
def test_with_the_static_runtime_library(
    session: tol.Session, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    path, library = built(tmp_path, *flags)
    archives = [runtime(f"lib{name}.a") for name in ("gfortran", "quadmath")]
    dylib = session.load([path, *archives])
    assert results(dylib) == results(tvm_ffi.load_module(str(library)))
