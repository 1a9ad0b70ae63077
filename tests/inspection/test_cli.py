# SPDX-License-Identifier: Apache-2.0
"""The commands inspect, call, stub and symbols, as tools of a Unix system."""

from __future__ import annotations

import ast
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compilation import Compiler
from processors import PROCESSOR

TYPED = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>
int64_t Scale(int64_t a, int64_t b) { return a * b; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, Scale);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(scale, "scale(value, factor=2)\\n--\\n\\nMultiply.");
tvm::ffi::String Cat(tvm::ffi::String a, tvm::ffi::String b) { return std::string(a) + b.c_str(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(cat, Cat);
int64_t Sum(tvm::ffi::Array<int64_t> a, tvm::ffi::Optional<tvm::ffi::TensorView>) { return a[0]; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(sum, Sum);
void Nothing() {}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(nothing, Nothing);
"""
WITH = "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1"
COMMAND = [sys.executable, "-m", "tvm_ffi_object_loader"]


@pytest.fixture(scope="module")
def typed(compile: Compiler) -> Path:
    return compile.cxx(TYPED, "-O1", "-fPIC", WITH, name="typed")


def tool(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=300, check=False, **options)


def succeeded(*arguments: object) -> str:
    result = tool(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def failed(*arguments: object, status: int = 1) -> str:
    result = tool(*arguments)
    assert (result.returncode, result.stdout) == (status, "")
    return result.stderr


def test_inspect(typed: Path) -> None:
    shown = succeeded("inspect", typed)
    lines = [line.split(maxsplit=1) for line in shown.splitlines()]
    assert ["kind", "object"] in lines
    assert ["processor", PROCESSOR.name] in lines
    assert ["loads", "here  yes"] in lines
    assert "scale    (its object says more when it is run: --run)" in shown
    assert "R_X86_64_PLT32" in shown
    shown = succeeded("inspect", "--run", typed)
    assert "scale    (value: int, factor: int = 2) -> int" in shown
    assert "Multiply." in shown


def test_inspect_as_json(typed: Path, add_object: Path) -> None:
    found = json.loads(succeeded("inspect", "--json", typed, add_object))
    assert [report["loads"] for report in found] == [True, True]
    assert [report["files"][0]["name"] for report in found] == [str(typed), str(add_object)]


def test_inspect_of_what_would_not_load(compile: Compiler) -> None:
    user = compile('#include "safe_call.h"\nint given();\nEXPORT(get) { RETURN(given()); }\n')
    given = compile("int given(void) { return 5; }\n", name="given")
    result = tool("inspect", user)
    assert result.returncode == 1
    assert result.stderr == ""
    assert "no: 1 symbols are defined nowhere" in result.stdout
    assert "NOWHERE  given" in result.stdout
    assert tool("inspect", user, given).returncode == 1
    assert "in the objects given along  given" in succeeded("inspect", "--together", user, given)
    assert "given" in succeeded("inspect", user, "--library", compile.link(given))


def test_bad_files_get_one_line_each_and_the_others_are_shown(
    add_object: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.o"
    text.write_text("no object\n")
    gone = tmp_path / "gone.o"
    cut = tmp_path / "cut.o"
    cut.write_bytes(add_object.read_bytes()[:200])
    result = tool("inspect", text, gone, cut, tmp_path, add_object)
    assert result.returncode == 1
    assert result.stdout.startswith(f"{add_object}\n") or f"\n{add_object}\n" in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        f"tvm-ffi-object-loader: {text}: is not an object file (it does not begin with an ELF "
        "header)"
    )
    assert lines[1] == f"tvm-ffi-object-loader: {gone}: No such file or directory"
    assert lines[2].startswith(f"tvm-ffi-object-loader: {cut}: is truncated: ")
    assert lines[3] == f"tvm-ffi-object-loader: {tmp_path}: Is a directory"


@pytest.mark.parametrize("command", ["inspect", "symbols", "stub"])
def test_one_bad_file(command: str, tmp_path: Path) -> None:
    (tmp_path / "text.o").write_text("no object\n")
    assert failed(command, tmp_path / "text.o").count("\n") == 1
    assert failed(command, tmp_path / "gone.o").endswith("gone.o: No such file or directory\n")


def test_a_terminal_obeys_nothing_in_a_file(add_object: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.o"
    odd.write_bytes(add_object.read_bytes().replace(b"__tvm_ffi_add\0", b"__tvm_ffi_\x1b[m\0"))
    for command in ("symbols", "inspect"):
        shown = succeeded(command, odd)
        assert "\x1b" not in shown
        assert "\\x1b[m" in shown


def test_call(typed: Path) -> None:
    assert succeeded("call", typed, "scale", "3", "-4") == "-12\n"
    assert succeeded("call", typed, "cat", "some text", "'5'") == "'some text5'\n"
    assert succeeded("call", typed, "sum", "[7, 8]", "None") == "7\n"
    assert succeeded("call", typed, "nothing") == "None\n"
    assert succeeded("call", typed, "cat", "--", "-a", "--time") == "'-a--time'\n"
    result = tool("call", "--time", typed, "scale", 1, 2)
    assert (result.returncode, result.stdout) == (0, "2\n")
    assert " ns a call" in result.stderr


def test_call_that_fails(typed: Path, tmp_path: Path) -> None:
    line = failed("call", typed, "scale", "x", "2")
    assert line.startswith("tvm-ffi-object-loader: scale: TypeError: Mismatched type on argument")
    assert "has no function 'scal'" in failed("call", typed, "scal")
    assert "No such file" in failed("call", tmp_path / "gone.o", "f")
    (tmp_path / "text.o").write_text("no object\n")
    assert "text.o: is not an object" in failed("call", tmp_path / "text.o", "f")


def test_a_stub_is_python_that_a_type_checker_takes(typed: Path, tmp_path: Path) -> None:
    assert "def scale(*args: Any) -> Any" in succeeded("stub", typed)
    text = succeeded("stub", "--run", typed)
    functions = {
        node.name: ast.unparse(node.args) + " -> " + ast.unparse(node.returns or node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    }
    assert functions == {
        "scale": "value: int, factor: int=2 -> int",
        "cat": "arg0: str, arg1: str, / -> str",
        "sum": "arg0: Array[int], arg1: Tensor | None, / -> int",
        "nothing": " -> None",
    }
    (tmp_path / "kernels.pyi").write_text(text)
    (tmp_path / "user.py").write_text(
        "import kernels\nnumber: int = kernels.scale(1)\nkernels.scale('1')\n"
    )
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--strict", "user.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    wrong = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[1] for line in wrong] == ["3"], result.stdout


def test_symbols(typed: Path, add_object: Path, tmp_path: Path) -> None:
    assert "Scale(long, long)" in succeeded("symbols", typed)
    lines = [line.split() for line in succeeded("symbols", add_object).splitlines()]
    assert lines[0] == ["offset", "size", "binding", "kind", "section", "name"]
    assert [line[2:] for line in lines[1:]] == [["global", "function", ".text", "__tvm_ffi_add"]]
    archive = tmp_path / "libadd.a"
    subprocess.run(["ar", "rcs", archive, add_object], check=True)
    assert f"{archive}({add_object.name})" in succeeded("symbols", archive)
    (found,) = json.loads(succeeded("symbols", "--json", add_object))
    assert (found["name"], found["demangled"]) == ("__tvm_ffi_add", "__tvm_ffi_add")


BUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"])


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["inspect"], ["call", "k.o"], ["inspect", "--absent", "k.o"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    error = failed(*arguments, status=2)
    assert error.startswith("usage: tvm-ffi-object-loader")


@BUFFERED
def test_nobody_reads_the_output(typed: Path, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for arguments in (["symbols", typed], ["--help"], ["inspect", "--json", typed]):
        reading, writing = os.pipe()
        os.close(reading)
        result = tool(*arguments, stdout=writing, env=environment)
        os.close(writing)
        assert (result.returncode, result.stderr) == (141, "")


@BUFFERED
def test_the_disk_is_full(typed: Path, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for arguments in (["symbols", typed], ["--help"], ["--version"], ["stub", typed]):
        with Path("/dev/full").open("w") as full:
            result = tool(*arguments, stdout=full, env=environment)
        assert result.returncode == 1
        assert result.stderr == (
            "tvm-ffi-object-loader: standard output: No space left on device\n"
        )


WAITING = """
#include "safe_call.h"
#include <stdio.h>
#include <time.h>
EXPORT(wait) {
  fprintf(stderr, "waiting\\n");
  fflush(stderr);
  struct timespec little = {0, 1000000};
  extern int TVMFFIEnvCheckSignals(void);
  while (TVMFFIEnvCheckSignals() == 0) nanosleep(&little, 0);
  return -2;
}
"""


def receive_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c(compile: Compiler) -> None:
    command = [*COMMAND, "call", str(compile(WAITING)), "wait"]
    # Where the tests run with SIGINT ignored, it is not ignored here.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=receive_interrupts,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_on_a_terminal(typed: Path) -> None:
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "inspect", str(typed)], stdout=inner, env={**os.environ, "COLUMNS": "200"}
    )
    os.close(inner)
    shown = b""
    while True:
        try:
            part = os.read(outer, 65536)
        except OSError:  # Linux says so when nobody has the other end any more
            break
        if not part:
            break
        shown += part
    os.close(outer)
    assert process.wait(timeout=300) == 0
    for word in (b"x86-64", b"scale", b"R_X86_64_PLT32", b"libstdc++"):
        assert word in shown
