# SPDX-License-Identifier: Apache-2.0
"""docs/compiling.md, docs/sessions.md and docs/caching.md: their examples run."""

from __future__ import annotations

import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import timeit
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from pages import Page, run_command

COMPILING, SESSIONS, CACHING = (
    Page(f"docs/{name}.md") for name in ("compiling", "sessions", "caching")
)

pytestmark = [page.needed for page in (COMPILING, SESSIONS, CACHING)]


def compile_as_the_page_says(compiler: str, flag: str = "") -> None:
    """Write the page's sources to their files, and run the command that compiles one."""
    COMPILING.write_files(Path.cwd())
    (command,) = (block for block in COMPILING.blocks("sh") if block.startswith(f"{compiler} "))
    result = run_command(command.replace(" -c ", f" {flag} -c "))
    assert result.returncode == 0, result.stderr


@pytest.fixture
def folder(compile: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with the objects that the examples name."""
    exports = {
        "base": "int64_t base(int64_t n) { return n + 1; }",
        "app": "int64_t base(int64_t); int64_t util(int64_t); int64_t more(void);"
        "EXPORT(run) { RETURN(base(INT(0)) + util(INT(0)) + more()); }",
        "util": "int64_t util(int64_t n) { return 10 * n; }",
        "more": "int64_t more(void) { return 100; }",
        "impl": "EXPORT(impl) { RETURN(0); }",
        "k": "EXPORT(add) { RETURN(INT(0) + INT(1)); }",
    }
    for name, source in exports.items():
        compiled = compile(f'#include "safe_call.h"\n{source}\n', name=name)
        shutil.copy(compiled, tmp_path / f"{name}.o")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def names(folder: Path) -> dict[str, Any]:
    """Return the names that the examples take for granted."""
    return {
        "concurrent": concurrent,
        "numpy": pytest.importorskip("numpy"),
        "pathlib": pathlib,
        "subprocess": subprocess,
        "timeit": timeit,
        "tol": tol,
        "tvm_ffi": tvm_ffi,
        "object_bytes": (folder / "more.o").read_bytes(),
        "compiler_version": "12.2.0",
        "compile_source": lambda source, flags: (folder / "k.o").read_bytes(),
    }


def test_compiling_cxx(names: dict[str, Any]) -> None:
    (flag,) = set(re.findall(r"`(-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1)`", COMPILING.text))
    compile_as_the_page_says("c++", flag)
    assert COMPILING.run(names, under="Writing and compiling functions") == 2


def test_compiling_c(folder: Path) -> None:
    compile_as_the_page_says("cc")
    add = tol.load_module("add.o").add
    assert add(1, 2) == 3
    with pytest.raises(TypeError, match="two integers"):
        add("1", 2)


def test_one_wrapper_many_kernels(names: dict[str, Any]) -> None:
    COMPILING.run(names, under="One wrapper, many kernels")
    assert names["best"] in names["variants"]


def test_sessions(names: dict[str, Any]) -> None:
    assert SESSIONS.run(names) == 1
    assert names["app"].closed


def test_caching(names: dict[str, Any], folder: Path) -> None:
    (folder / "add.cc").write_text("source\n")
    assert CACHING.run(names) >= 3
