# SPDX-License-Identifier: Apache-2.0
"""Zig: objects of both its code generators, position-independent and not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from outcomes import outcome

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="the package ziglang is not here"
)
SOURCE = Path(__file__).parent / "sources" / "functions.zig"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zig")


def build(cache: Path, name: str, *flags: str) -> Path:
    path = cache / f"{name}.o"
    places = [f"-femit-bin={path}", "--cache-dir", str(cache), "--global-cache-dir", str(cache)]
    command = [sys.executable, "-m", "ziglang", "build-obj", *flags, *places, str(SOURCE)]
    subprocess.run(command, check=True, timeout=300)
    return path


def results(functions: tol.Dylib | tvm_ffi.Module) -> list[Any]:
    calls = [("add", (1, 2)), ("parse", (55,)), ("parse", (-1,)), ("words", (100,))]
    calls += [("count", (5,)), ("count", (5,)), ("wide", (12345678,)), ("wide", (77,))]
    found: list[Any] = [
        outcome(functions.get_function(name), *arguments) for name, arguments in calls
    ]
    thread = threading.Thread(target=lambda: found.append(functions.get_function("count")(3)))
    thread.start()
    thread.join()
    return found


# Debug is compiled by Zig's own code generator, the others by LLVM.
@pytest.mark.parametrize("mode", ["Debug", "ReleaseFast", "ReleaseSmall"])
def test_results_are_those_of_the_dlopened_build(
    session: tol.Session, compile: Compiler, cache: Path, mode: str
) -> None:
    path = build(cache, f"pic-{mode}", "-fPIC", "-O", mode)
    expected = results(compile.dlopen(path))
    assert expected[2] == (ValueError, "InvalidCharacter")
    assert results(session.load(path)) == expected
    if mode != "Debug":
        fixed = build(cache, f"fixed-{mode}", "-fno-PIC", "-O", mode)
        assert results(session.load(fixed)) == expected


def test_with_its_checks_and_its_own_runtime(
    session: tol.Session, compile: Compiler, cache: Path
) -> None:
    path = build(cache, "safe", "-fPIC", "-O", "ReleaseSafe", "-fstrip", "-fcompiler-rt")
    assert results(session.load(path)) == results(compile.dlopen(path))
