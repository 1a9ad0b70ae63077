# SPDX-License-Identifier: Apache-2.0
"""What loaded code is called and where it is: `symbols`, `symbolize`, dladdr, backtrace_symbols."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import threading
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler

SOURCE = """
#include <dlfcn.h>
#include <execinfo.h>
#include <cstdlib>
#include <string>
#include <tvm/ffi/tvm_ffi.h>
#include <unistd.h>

extern int shared_counter;
int counter = 3;
int zeros[32];
extern const int constants[4];
const int constants[4] = {1, 2, 3, 4};

static __attribute__((noinline, noclone)) int64_t helper(int64_t n) {
  asm volatile("" ::: "memory");
  return n + counter + zeros[1] + constants[2];
}
namespace user {
__attribute__((noinline)) int64_t scale(int64_t n) { return helper(n) * 2; }
}  // namespace user
__attribute__((noinline, visibility("hidden"))) int64_t hidden(int64_t n) { return n; }
__attribute__((weak, noinline)) int64_t weak(int64_t n) { return hidden(n); }
int64_t run(int64_t n) { return user::scale(n) + weak(n); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);

__attribute__((noinline)) int64_t helper_address() { return reinterpret_cast<int64_t>(&helper); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(helper_address, helper_address);

tvm::ffi::String NameAt(int64_t address) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(address), &info)) return "nothing";
  std::string base = std::string(info.dli_fname ? info.dli_fname : "?");
  return base + ":" + (info.dli_sname ? info.dli_sname : "?") + ":" +
         std::to_string(address - reinterpret_cast<int64_t>(info.dli_saddr));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(name_at, NameAt);

__attribute__((noinline)) tvm::ffi::String Stack() {
  void* addresses[64];
  int count = backtrace(addresses, 64);
  char** lines = backtrace_symbols(addresses, count);
  std::string text;
  for (int i = 0; i < count; ++i) text += std::string(lines[i]) + "\\n";
  free(lines);
  return text;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(stack, Stack);

void StackTo(int64_t file) {
  void* addresses[64];
  backtrace_symbols_fd(addresses, backtrace(addresses, 64), static_cast<int>(file));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(stack_to, StackTo);
"""


@pytest.fixture(scope="module")
def source(compile: Compiler) -> Path:
    return compile.cxx(SOURCE, "-O1", "-fPIC", name="names")


def by_symbol(dylib: tol.Dylib) -> dict[str, tol.Symbol]:
    return {symbol.symbol: symbol for symbol in dylib.symbols}


def symbols_of_library(compile: Compiler, path: Path) -> dict[str, tuple[int, str]]:
    """Return the size and the kind of each symbol that a linked library defines, as nm says."""
    command = ["nm", "-S", "--defined-only", str(compile.link(path))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [line.split() for line in lines]
    return {field[3]: (int(field[1], 16), field[2]) for field in fields if len(field) == 4}


def test_symbols_are_those_of_the_linked_library(
    compile: Compiler, source: Path, session: tol.Session
) -> None:
    dylib = session.load(source, name="names")
    symbols = by_symbol(dylib)
    linked = symbols_of_library(compile, source)
    for name in ["_ZL6helperl", "_ZN4user5scaleEl", "_Z6hiddenl", "_Z4weakl", "__tvm_ffi_run"]:
        assert symbols[name].size == linked[name][0], name
        assert symbols[name].is_function
        assert symbols[name].section == ".text"
        assert symbols[name].object == str(source)
        assert (symbols[name].session, symbols[name].dylib) == (session.name, "names")
    sections = {"counter": ".data", "zeros": ".bss", "constants": ".rodata"}
    for name, section in sections.items():
        assert (symbols[name].section, symbols[name].size) == (section, linked[name][0])
        assert not symbols[name].is_function
    # All functions of the library that come from the object are there; a linker adds some.
    own = functions_of(source)
    assert own & functions_of(compile.link(source)) <= set(symbols)


def functions_of(path: Path) -> set[str]:
    """Return the functions that a file defines, as nm says."""
    command = ["nm", "--defined-only", "-f", "posix", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name, kind, *_ in map(str.split, lines) if kind in "tT"}


def test_symbols_say_what_they_are(source: Path, session: tol.Session) -> None:
    dylib = session.load(source)
    symbols = by_symbol(dylib)
    assert symbols["_ZN4user5scaleEl"].name == "user::scale(long)"
    assert symbols["__tvm_ffi_run"].name == "__tvm_ffi_run"
    assert symbols["_ZL6helperl"].is_static
    assert not symbols["_ZL6helperl"].is_exported
    assert not symbols["_Z6hiddenl"].is_exported
    assert not symbols["_Z6hiddenl"].is_static
    assert symbols["_Z4weakl"].is_weak
    assert symbols["_Z4weakl"].is_exported
    assert symbols["__tvm_ffi_run"].address == dylib.lookup("__tvm_ffi_run")
    addresses = [symbol.address for symbol in dylib.symbols]
    assert addresses == sorted(addresses)


def test_symbolize_finds_every_function_and_no_other_address(
    source: Path, session: tol.Session
) -> None:
    dylib = session.load(source, name="names")
    for symbol in dylib.symbols:
        if not symbol.is_function:
            assert session.symbolize(symbol.address) is None  # it is about code
            continue
        for address in (symbol.address, symbol.address + symbol.size - 1):
            location = session.symbolize(address)
            assert location is not None
            assert location.symbol is not None
            assert location.symbol.address == symbol.address
            assert location.offset == address - symbol.address
            assert (location.dylib, location.object) == ("names", str(source))
            assert tol.symbolize(address) == location
    helper = tol.symbolize(dylib["helper_address"]() + 2)
    assert helper is not None
    assert str(helper).endswith(" helper(long)+0x2 in dylib 'names'")
    assert session.symbolize(0) is None
    assert session.symbolize(-1) is None
    assert session.symbolize(1 << 70) is None
    with pytest.raises(TypeError):
        session.symbolize("main")  # type: ignore[arg-type]


def test_symbolize_asks_one_session_or_all(source: Path, session: tol.Session) -> None:
    address = session.load(source).lookup("__tvm_ffi_run")
    with tol.Session() as other:
        assert other.symbolize(address) is None
        assert tol.symbolize(address) == session.symbolize(address)


def test_nothing_is_there_once_it_is_unloaded(source: Path, session: tol.Session) -> None:
    dylib = session.load(source)
    address = dylib.lookup("__tvm_ffi_run")
    assert tol.symbolize(address) is not None
    dylib.close()
    assert tol.symbolize(address) is None
    with pytest.raises(tol.SessionClosedError):
        dylib.symbols  # noqa: B018


def test_each_symbol_is_of_its_own_object(compile: Compiler, session: tol.Session) -> None:
    """Of several objects in a load, and of several loads of a dylib."""
    text = """
    int common_NAME;
    int data_NAME = 7;
    static __attribute__((noinline)) int static_NAME(int n) { return n + data_NAME; }
    int zeros_NAME[16];
    int function_NAME(int n) { return static_NAME(n) + common_NAME + zeros_NAME[n]; }
    """
    paths = {
        name: compile(text.replace("NAME", name), "-O1", "-fPIC", "-fcommon", name=name)
        for name in ("first", "second", "third", "fourth")
    }
    dylib = session.create_dylib().load([paths[name] for name in ("first", "second", "third")])
    dylib.load(paths["fourth"])
    symbols = by_symbol(dylib)
    for name, path in paths.items():
        for kind in ("common", "data", "static", "zeros", "function"):
            assert symbols[f"{kind}_{name}"].object == str(path), (kind, name)
        location = session.symbolize(symbols[f"static_{name}"].address)
        assert location is not None
        assert location.object == str(path)


def test_what_has_no_size_ends_where_the_next_begins(
    compile: Compiler, session: tol.Session
) -> None:
    assembler = """
        .text
        .globl first, second
    first:
        nop
        nop
    second:
        ret
    """
    path = compile(assembler, "-fPIC", language="assembler", name="bare")
    dylib = session.load(path)
    first, second = dylib.lookup("first"), dylib.lookup("second")
    found = [session.symbolize(address) for address in (first, first + 1, second)]
    names = [location.symbol.symbol for location in found if location and location.symbol]
    assert names == ["first", "first", "second"]
    assert by_symbol(dylib)["first"].size == 0


def test_dladdr_in_loaded_code_knows_loaded_code(source: Path, session: tol.Session) -> None:
    dylib = session.load(source)
    name_at = dylib["name_at"]
    assert name_at(dylib.lookup("_ZN4user5scaleEl") + 3) == f"{source}:_ZN4user5scaleEl:3"
    assert name_at(dylib["helper_address"]()) == f"{source}:_ZL6helperl:0"
    # And all else as the C library does.
    import ctypes

    malloc = ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value
    assert malloc is not None
    path, symbol, offset = name_at(malloc).split(":")
    assert "libc" in path or "python" in path  # where the program takes its address
    assert "malloc" in symbol
    assert offset == "0"
    assert name_at(64) == "nothing"


def test_backtrace_symbols_in_loaded_code_name_loaded_code(
    compile: Compiler, source: Path, session: tol.Session, tmp_path: Path
) -> None:
    def names(lines: str) -> list[str]:
        return [line.split("(")[1].split("+")[0] for line in lines.splitlines() if "(" in line]

    dylib = session.load(source)
    text = dylib["stack"]()
    assert f"{source}(_Z5Stackv+0x" in text
    module = compile.dlopen(source)
    linked = "".join(module.stack())  # what the library made goes before the library
    # The library has no names for what is not exported, and nor has the interpreter.
    own = [name for name in names(text) if name.startswith(("_Z5", "__tvm_ffi_"))]
    assert own == [name for name in names(linked) if name.startswith(("_Z5", "__tvm_ffi_"))]
    with (tmp_path / "stack").open("w+") as file:
        dylib["stack_to"](file.fileno())
        file.seek(0)
        assert f"{source}(_Z7StackTol+0x" in file.read()


def test_symbols_while_others_load_and_unload(source: Path, session: tol.Session) -> None:
    """An address may be asked for whose code goes meanwhile."""
    addresses: list[int] = [0]
    end = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            while not end.is_set():
                location = tol.symbolize(addresses[-1])
                # What is being unloaded may have lost its names already.
                if location and location.symbol:
                    assert location.symbol.symbol == "__tvm_ffi_run"
                for dylib in session.dylibs.values():
                    with contextlib.suppress(tol.SessionClosedError):
                        assert len(dylib.symbols) != 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        dylib = session.load(source)
        addresses.append(dylib.lookup("__tvm_ffi_run"))
        dylib.close()
    end.set()
    for thread in threads:
        thread.join()
    assert not failed
    gc.collect()
    assert session.stats().bytes_code == 0
