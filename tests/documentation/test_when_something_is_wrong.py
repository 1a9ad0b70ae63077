# SPDX-License-Identifier: Apache-2.0
"""docs/when-something-is-wrong.md: its examples run, and its commands do what it says."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from pages import Page

PAGE = Page("docs/when-something-is-wrong.md")

pytestmark = PAGE.needed


def test_examples_give_what_they_say(
    compile: Compiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What follows a ``#`` and is a value is what the expression before it is."""
    caplog.set_level(logging.NOTSET, "tvm_ffi_object_loader")  # and back: an example sets it, too
    demo = Path(tol.__file__).parent / "demo" / "math_ops.cc"
    shutil.copy(compile.cxx(demo.read_text(), "-O2", "-fPIC"), tmp_path / "math_ops.o")
    monkeypatch.chdir(tmp_path)
    assert PAGE.run({"tol": tol}) == 10


def test_gdb_command(compile: Compiler, tmp_path: Path) -> None:
    """The line of the page, for a kernel.c and a script.py."""
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    (tmp_path / "kernel.c").write_text(
        "\n" * 12 + "static long inner(long n) {\n  return n + 1;\n}\n"
        "int __tvm_ffi_run(void* a, void* b, int c, void* d) { return inner(c) == 0; }\n"
    )
    command = ["gcc", "-g", "-O0", "-fPIC", "-c", "kernel.c", "-o", "kernel.o"]
    subprocess.run(command, check=True, cwd=tmp_path)
    (tmp_path / "script.py").write_text(
        "import tvm_ffi_object_loader as tol\ntol.Session(debug=True).load('kernel.o')['run']()\n"
    )
    lines = "".join(PAGE.blocks("sh")).splitlines()
    (line,) = (line for line in lines if line.startswith("gdb "))
    options = line.replace("gdb ", "gdb -nx -batch -iex 'set debuginfod enabled off' ", 1)
    shown = subprocess.run(
        f"timeout -s KILL 120 {options}".replace("--args python", f"--args {sys.executable}"),
        shell=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=tmp_path,
        check=False,
    )
    if "ptrace" in shown.stderr:
        pytest.skip("the system lets no process be debugged (ptrace)")
    assert "Breakpoint 1, inner (n=0) at kernel.c:14" in shown.stdout, shown
