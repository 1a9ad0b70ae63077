# SPDX-License-Identifier: Apache-2.0
"""Sessions with ``debug=True`` know the lines of sources: in tracebacks, and of addresses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from tvm_ffi import libinfo

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, Compiler, Toolchain
from conftest import RunScript
from instances import matrix_but

SOURCE = """
#include <tvm/ffi/tvm_ffi.h>

static __attribute__((noinline)) int64_t inner(int64_t n) {
  if (n == 1) TVM_FFI_THROW(ValueError) << "bad";
  return n;
}
__attribute__((noinline)) int64_t middle(int64_t n) {
  int64_t result = inner(n);
  return result + 1;
}
__attribute__((noinline)) int64_t outer(int64_t n) {
  return middle(n)
         + 1;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, outer);
"""


def build(folder: Path, *flags: str, toolchain: Toolchain = GCC) -> Path:
    """Compile `SOURCE` from a file, by a relative path."""
    (folder / "kernel.cc").write_text(SOURCE)
    includes = [f"-I{path}" for path in libinfo.include_paths()]
    command = [toolchain.cxx, "-std=c++17", *includes, *flags, "-fPIC", "-c", "kernel.cc"]
    subprocess.run([*command, "-o", "kernel.o"], check=True, cwd=folder)
    return folder / "kernel.o"


def frames(function: Any) -> list[tuple[str, str, str]]:
    """Return file, line and function of the frames that are loaded code's."""
    with pytest.raises(ValueError, match="bad") as caught:
        function(1)
    return own(cast(Any, caught.value).__tvm_ffi_error__.backtrace)


def own(text: str) -> list[tuple[str, str, str]]:
    found = re.findall(r'File "(.*)", line (\d+), in (.*)', text)
    return [frame for frame in found if re.search(r"inner|middle|outer|__tvm_ffi_run", frame[2])]


# In a process of its own: tvm-ffi knows the libraries that are there at its first traceback.
RAISE = """
import sys
import tvm_ffi
import tvm_ffi_object_loader as tol
if sys.argv[1].endswith(".o"):
    function = tol.Session(debug=True).load(sys.argv[1])["run"]
else:
    function = tvm_ffi.load_module(sys.argv[1]).run
try:
    function(1)
except ValueError as error:
    print(error.__tvm_ffi_error__.backtrace)
"""


@pytest.mark.parametrize("toolchain", [GCC, CLANG], ids=["gcc", "clang"])
@pytest.mark.parametrize(
    "flags", matrix_but(["-g -O1", "-g -O0", "-gdwarf-4 -O1", "-g -gz -O1"], "-g -O1")
)
def test_tracebacks_are_those_of_the_linked_library(
    flags: str,
    toolchain: Toolchain | None,
    tmp_path: Path,
    compile: Compiler,
    run_script: RunScript,
) -> None:
    if toolchain is None:
        pytest.skip("clang is not installed")
    path = build(tmp_path, *flags.split(), toolchain=toolchain)
    found = own(run_script(RAISE, path))
    # The line where the error was raised is tvm-ffi's own to tell.
    lines = {name: (file, line) for file, line, name in found}
    kernel = str(tmp_path / "kernel.cc")
    assert lines["middle(long)"] == (kernel, "9"), found
    assert lines["outer(long)"] in [(kernel, "13"), (kernel, "14")]
    assert found == own(run_script(RAISE, compile.link(path)))


def test_without_a_debugger_there_are_names_alone(tmp_path: Path) -> None:
    path = build(tmp_path, "-g", "-O1")
    with tol.Session() as session:
        found = frames(session.load(path)["run"])
        assert ("<unknown>", "0", "middle(long)") in found


def test_without_debug_information_there_are_names_alone(tmp_path: Path) -> None:
    path = build(tmp_path, "-O1")
    with tol.Session(debug=True) as session:
        dylib = session.load(path)
        assert ("<unknown>", "0", "middle(long)") in frames(dylib["run"])
        location = session.symbolize(dylib.lookup("_Z6middlel"))
        assert location is not None
        assert (location.file, location.line) == (None, None)


def test_symbolize_says_the_line(tmp_path: Path) -> None:
    path = build(tmp_path, "-g", "-O0")
    with tol.Session(debug=True) as session:
        dylib = session.load(path)
        symbol = next(one for one in dylib.symbols if one.symbol == "_Z6middlel")
        locations = [
            session.symbolize(address)
            for address in range(symbol.address, symbol.address + symbol.size)
        ]
        lines = [location.line for location in locations if location]
        assert sorted({line for line in lines if line}) == [8, 9, 10, 11]
        assert {location.file for location in locations if location} == {
            str(tmp_path / "kernel.cc")
        }
        assert f"at {tmp_path}/kernel.cc:8 in dylib" in str(locations[0])
        other = tol.Session().load(path)
        found = tol.symbolize(other.lookup("_Z6middlel"))
        assert found is not None
        assert found.file is None
