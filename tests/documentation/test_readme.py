# SPDX-License-Identifier: Apache-2.0
"""README's commands and examples work as they are pasted, and its figures are the report's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tvm_ffi import libinfo

from compilation import Compiler
from folders import ROOT
from pages import Page, run_command

README = Page("README.md")

pytestmark = README.needed

START = '#include "safe_call.h"\n'


@pytest.fixture
def names(compile: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names after the first example, whose files are in the current folder."""
    monkeypatch.chdir(tmp_path)
    for command in README.blocks("sh", under="A first function"):
        result = run_command(command)
        assert result.returncode == 0, result.stderr  # a new compiler may warn of tvm-ffi's headers
    names: dict[str, Any] = {}
    assert README.run(names, under="A first function") == 1
    return names


def sessions(compile: Compiler) -> None:
    sources = {
        "base": START + "int64_t base(int64_t n) { return n + 1; }",
        "app": START + "int64_t base(int64_t); int64_t util(int64_t);\n"
        "EXPORT(run) { RETURN(base(INT(0)) + util(INT(0))); }",
    }
    for name, source in sources.items():
        shutil.copy(compile(source, name=name), f"{name}.o")
    util = compile(START + "int64_t util(int64_t n) { return 110 + n - 3; }", name="util")
    subprocess.run(["ar", "qc", "util.a", util], check=True)


def arrays(compile: Compiler) -> None:
    pytest.importorskip("numpy")
    source = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
void Scale(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  for (int64_t i = 0; i < x.numel(); ++i) {
    static_cast<float*>(y.data_ptr())[i] = 2 * static_cast<float*>(x.data_ptr())[i];
  }
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, Scale);
"""
    shutil.copy(compile.cxx(source), "scale.o")


def reload(compile: Compiler) -> None:
    for number in (1, 2):
        source = f"{START}EXPORT(version) {{ RETURN({number}); }}"
        shutil.copy(compile(source), f"v{number}.o")


def nothing(compile: Compiler) -> None:
    """Take what the first example has made."""


@pytest.mark.parametrize(
    ("heading", "make", "values"),
    [
        ("Sessions", sessions, 1),
        ("Arrays", arrays, 1),
        ("Reload", reload, 1),
        ("Threads, forks, other processes", nothing, 1),
        ("Debugging", nothing, 1),
    ],
)
def test_a_recipe(
    names: dict[str, Any],
    compile: Compiler,
    heading: str,
    make: Callable[[Compiler], None],
    values: int,
) -> None:
    make(compile)
    assert README.run(names, under=heading) == values


def test_the_cuda_recipe(names: dict[str, Any]) -> None:
    runtime = "/usr/local/cuda/lib64/libcudart.so"
    if shutil.which("nvcc") is None or not Path(runtime).exists():
        pytest.skip("no nvcc, or no CUDA runtime where README has it")
    source = """
#include <tvm/ffi/function.h>
__global__ void nothing() {}
static int64_t Launch() { nothing<<<1, 1>>>(); return cudaGetLastError(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(launch, Launch);
"""
    Path("kernel.cu").write_text(source)
    includes = [f"-I{path}" for path in libinfo.include_paths()]
    command = ["nvcc", "-c", "-Xcompiler", "-fPIC", "-std=c++17", *includes, "kernel.cu"]
    subprocess.run([*command, "-o", "kernel.o"], check=True, timeout=300)
    README.run(names, under="CUDA")
    assert isinstance(names["launch"](), int)  # the runtime's error where there is no GPU


def test_no_recipe_is_left_out() -> None:
    assert len(README.blocks("python")) == 7


def test_the_two_commands_are_there() -> None:
    commands = [line for block in README.blocks("sh") for line in block.splitlines()]
    assert "pip install -v . && python -m tvm_ffi_object_loader demo" in commands
    assert "pip install 'tvm-ffi-object-loader[test]' && python -m pytest -n auto" in commands


def test_links_lead_to_pages_that_are_there() -> None:
    """They are absolute, since PyPI shows the page, too."""
    links = README.links()
    assert len(links) > 20
    for link in links:
        if "/blob/main/" in link:
            assert (ROOT / link.partition("/blob/main/")[2]).is_file(), link
        else:
            assert link.startswith("https://"), link


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_figures_are_those_of_the_committed_report(page: str) -> None:
    report = ROOT / "bench" / "report" / "report.md"
    if not report.is_file():
        pytest.skip("bench/ is not here")
    rows = [line for line in Page(page).text.splitlines() if line.startswith("|")]
    assert len(rows) > 8
    assert set(rows) <= set(report.read_text().splitlines())


def test_the_page_is_read_in_two_minutes() -> None:
    words = [
        word for line in README.text.splitlines() if line[:1] not in "[|`" for word in line.split()
    ]
    assert len(words) < 700
