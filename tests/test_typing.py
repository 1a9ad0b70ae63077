# SPDX-License-Identifier: Apache-2.0
"""What a type checker sees of the package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol

GOOD = """
import pathlib
import tvm_ffi
import tvm_ffi_object_loader as tol

with tol.Session("s") as session:
    base: tol.Dylib = session.create_dylib("base")
    base.load("a.o")
    base.load([pathlib.Path("b.o"), b"bytes", bytearray(), memoryview(b"")])
    app = session.load("c.o", name="app", link_order=[base])
    function: tvm_ffi.Function = app["f"]
    address: int = app.lookup("symbol")
    names: list[str] = app.functions
    module: tvm_ffi.Module = session.load_module(("a.o", b"x"))
    dylibs: dict[str, tol.Dylib] = session.dylibs
    stats: dict[str, int] = session.stats()
loader: tol.ObjectLoader = tol.ObjectLoader().load("a.o").load(b"x")
tol.load_module("a.o").get_function("f")
try:
    pass
except tol.UndefinedSymbolError as error:
    symbols: tuple[str, ...] = error.symbols
"""
BAD = """
import tvm_ffi_object_loader as tol

session = tol.Session(5)
dylib = session.load(None)
dylib.lookup(b"x")
dylib.add
session.create_dylib(link_order=[5])
"""


def test_a_type_checker_accepts_the_right_and_refuses_the_wrong(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {Path(tol.__file__).parent.parent}\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "good.py", "bad.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    wrong = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert [line for line in wrong if not line.startswith("bad.py")] == []
    assert sorted({int(line.split(":")[1]) for line in wrong}) == [4, 5, 6, 7, 8]
