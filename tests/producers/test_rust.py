# SPDX-License-Identifier: Apache-2.0
"""Rust: static libraries with the standard library in them, and objects with its shared library."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from outcomes import outcome

RUSTC = shutil.which("rustc")
pytestmark = pytest.mark.skipif(RUSTC is None, reason="rustc is not here")
SOURCE = Path(__file__).parent / "sources" / "functions.rs"

FLAGS = {
    "debug": ("-g", "-C", "overflow-checks=on"),
    "release": ("-O",),
    "fat": ("-C", "opt-level=3", "-C", "lto=fat", "-C", "codegen-units=1"),
}
NO_STD = """
#![no_std]
#[repr(C)]
pub struct Any { type_index: i32, padding: u32, value: i64 }
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[no_mangle]
pub unsafe extern "C" fn __tvm_ffi_wide(
    _: *mut u8, args: *const Any, _: i32, result: *mut Any,
) -> i32 {
    let wide = ((*args).value as i128).wrapping_mul(1_000_000_007 * 998_244_353);
    let value = wide.checked_rem((*args.add(1)).value as i128).unwrap_or(0) as i64;
    *result = Any { type_index: 1, padding: 0, value };
    0
}
"""


def rustc(source: Path, output: Path, *flags: str) -> Path:
    assert RUSTC
    command = [RUSTC, *flags, "-o", str(output), str(source)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    return output


def standard_library() -> Path:
    assert RUSTC
    command = [RUSTC, "--print", "target-libdir"]
    folder = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    libraries = [*Path(folder).glob("libstd-*.so")]
    if not libraries:
        pytest.skip("rustc has no shared standard library")
    return libraries[0]


def results(functions: tol.Dylib | tvm_ffi.Module) -> list[Any]:
    calls = [("add", (1, 2)), ("words", (100,)), ("index", (2,)), ("index", (7,)), ("refuse", (5,))]
    calls += [("count", (5,)), ("count", (6,)), ("threads", (100,)), ("dropped", ())]
    found: list[Any] = [
        outcome(functions.get_function(name), *arguments) for name, arguments in calls
    ]
    thread = threading.Thread(target=lambda: found.append(functions.get_function("count")(3)))
    thread.start()
    thread.join()
    # Python says that a thread has ended a little before its variables are dropped.
    deadline = time.monotonic() + 60
    while functions.get_function("dropped")() != 403 and time.monotonic() < deadline:
        time.sleep(0.001)
    return [*found, functions.get_function("dropped")()]


@pytest.mark.parametrize("flags", FLAGS)
def test_a_static_library_alone(session: tol.Session, tmp_path: Path, flags: str) -> None:
    archive = rustc(SOURCE, tmp_path / "functions.a", "--crate-type=staticlib", *FLAGS[flags])
    library = rustc(SOURCE, tmp_path / "functions.so", "--crate-type=cdylib", *FLAGS[flags])
    dylib = session.load(archive)
    assert dylib.functions == ["add", "count", "dropped", "index", "refuse", "threads", "words"]
    found = results(dylib)
    assert found == results(tvm_ffi.load_module(str(library)))
    assert found[3] == (ValueError, "index out of bounds: the len is 3 but the index is 7")
    assert found[8:] == [(int, "400"), 11, 403]


@pytest.mark.parametrize("flags", ["debug", "release"])
def test_an_object_with_the_shared_standard_library(tmp_path: Path, flags: str) -> None:
    session = tol.Session()
    more = ("--emit=obj", "-C", "prefer-dynamic", *FLAGS[flags])
    path = rustc(SOURCE, tmp_path / "functions.o", "--crate-type=lib", *more)
    with pytest.raises(tol.UndefinedSymbolError, match="rust_eh_personality"):
        session.load(path)
    library = rustc(SOURCE, tmp_path / "functions.so", "--crate-type=cdylib", *FLAGS[flags])
    dylib = session.load(path, link_order=[standard_library()])
    # The shared library has a list of its own of what a thread has to drop when it ends. As for
    # dlclose, the code has to stay until then, which for this thread is the process's end.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dylib))
    assert results(dylib) == results(tvm_ffi.load_module(str(library)))


def test_two_static_libraries_in_one_process(session: tol.Session, tmp_path: Path) -> None:
    archive = rustc(SOURCE, tmp_path / "functions.a", "--crate-type=staticlib", "-O")
    first, second = session.load(archive), session.load(archive)
    assert first["count"](5) == second["count"](5) == 13
    with pytest.raises(ValueError, match="not 1"):
        first["refuse"](1)
    first.close()
    with pytest.raises(ValueError, match="not 2"):
        second["refuse"](2)
    assert second["count"](5) == 19


def test_an_object_without_the_standard_library(session: tol.Session, tmp_path: Path) -> None:
    source = tmp_path / "wide.rs"
    source.write_text(NO_STD)
    more = ("-O", "--emit=obj", "-C", "panic=abort", "-C", "relocation-model=pic")
    path = rustc(source, tmp_path / "wide.o", "--crate-type=lib", *more)
    wide = session.load(path)["wide"]
    assert wide(12345, 1 << 40) == 12345 * 1_000_000_007 * 998_244_353 % (1 << 40)
    assert wide(-7, 12) == -(7 * 1_000_000_007 * 998_244_353 % 12)
