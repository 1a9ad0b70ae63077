# SPDX-License-Identifier: Apache-2.0
"""Symbols that a linker defines: those of the load, never those of the program's executable."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain, both_makes
from processors import X86_64, only_on

pytestmark = pytest.mark.matrix

SYMBOLS = r"""
#include "safe_call.h"
extern char SYMBOL[] VISIBLE;
int64_t zeros[4];
int64_t data[4] = {1, 2, 3, 4};
static char* volatile pointer = SYMBOL;
EXPORT(NAME_in_code) { RETURN(SYMBOL); }
EXPORT(NAME_in_data) { RETURN(pointer); }
EXPORT(NAME_code) { RETURN(__tvm_ffi_NAME_code); }
EXPORT(NAME_data) { RETURN(data); }
EXPORT(NAME_zeros) { RETURN(zeros); }
"""
VISIBLE = {"default": "", "hidden": '__attribute__((visibility("hidden")))'}


class Places(NamedTuple):
    """Where a symbol is, and of what lies in its load: ends, where it is data."""

    at: int
    code: int
    data: int
    zeros: int
    zeros_start: int


# Parts of a library's file, and of what every library is linked with.
OF_THE_FILE = ["_init", "_fini", "__ehdr_start", "_DYNAMIC"]
# What holds for each.
LINKER_DEFINED: dict[str, Callable[[Places], bool]] = {
    **dict.fromkeys(["etext", "_etext", "__etext"], lambda places: places.at > places.code),
    **dict.fromkeys(["edata", "_edata"], lambda places: places.at >= places.data),
    **dict.fromkeys(["end", "_end"], lambda places: 0 <= places.at - places.zeros < 1 << 24),
    "__bss_start": lambda places: places.at <= places.zeros_start,
    **dict.fromkeys(OF_THE_FILE, lambda places: True),
}
all_symbols = pytest.mark.parametrize("symbol", LINKER_DEFINED)
all_visibilities = pytest.mark.parametrize("visible", VISIBLE)


def of_the_executable(symbol: str) -> int | None:
    """Where the process has the symbol, for whoever lacks it."""
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(None), symbol))
    except ValueError:
        return None


def uses_symbol(
    compile: Compiler,
    symbol: str,
    visible: str,
    toolchain: Toolchain,
    name: str = "f",
    attribute: str = "",
) -> Path:
    source = SYMBOLS.replace("SYMBOL", symbol).replace("VISIBLE", VISIBLE[visible] + attribute)
    if name != "f":  # of another object of the dylib
        source = source.replace("int64_t zeros", "static int64_t zeros")
        source = source.replace("int64_t data", "static int64_t data")
    return compile(source.replace("NAME", name), toolchain=toolchain, name=name)


def places(of: tol.Dylib | tvm_ffi.Module, name: str = "f") -> Places:
    def at(what: str) -> int:
        result: int = of.get_function(f"{name}_{what}")()
        return result

    assert at("in_code") == at("in_data")
    zeros = at("zeros")
    return Places(at("in_code"), at("code"), at("data") + 32, zeros + 32, zeros)


def assert_own(symbol: str, places: Places) -> None:
    assert places.at != of_the_executable(symbol)
    assert all(abs(places.at - other) < 1 << 31 for other in places)
    assert LINKER_DEFINED[symbol](places)


def load_unless_refused(
    session: tol.Session, objects: Path | Sequence[Path], symbol: str
) -> tol.Dylib | None:
    """Load what needs the symbol. That may be refused, with an error that names it."""
    try:
        return session.load(objects)
    except tol.LinkError as error:
        if symbol not in str(error):
            raise
        return None


@both_makes
@all_symbols
@all_visibilities
def test_symbols_that_a_linker_defines(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, symbol: str, visible: str
) -> None:
    path = uses_symbol(compile, symbol, visible, toolchain)
    dlopened = places(compile.dlopen(path))
    # Those that the executable exports take the place of a library's that are not hidden.
    if of_the_executable(symbol) is None or visible == "hidden":
        assert_own(symbol, dlopened)
    dylib = load_unless_refused(session, path, symbol)
    if dylib is not None:
        assert_own(symbol, places(dylib))


@both_makes
@all_symbols
@all_visibilities
def test_symbols_that_a_linker_defines_are_each_loads_own(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, symbol: str, visible: str
) -> None:
    first = uses_symbol(compile, symbol, visible, toolchain)
    second = uses_symbol(compile, symbol, visible, toolchain, name="g")
    base = load_unless_refused(session, first, symbol)
    if base is None:
        return
    base.load(second)
    app = session.load(first, link_order=[base])
    found = [places(base), places(base, "g"), places(app)]
    for each in found:
        assert_own(symbol, each)
    if symbol not in OF_THE_FILE:
        assert len({each.at for each in found}) == 3


@both_makes
@all_symbols
@all_visibilities
def test_weak_references_to_symbols_that_a_linker_defines(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, symbol: str, visible: str
) -> None:
    weak = " __attribute__((weak))"
    path = uses_symbol(compile, symbol, visible, toolchain, attribute=weak)
    found = places(session.load(path))
    if found.at != 0:
        assert_own(symbol, found)


@both_makes
def test_symbols_that_a_linker_defines_around_those_of_several_objects(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    source = """
    #include "safe_call.h"
    #define HIDDEN __attribute__((visibility("hidden")))
    extern char etext[] HIDDEN, edata[] HIDDEN, end[] HIDDEN, __bss_start[] HIDDEN;
    extern int64_t zeros2[100], data2[100];
    int64_t code2(void);
    int64_t zeros1[100], data1[100] = {1};
    static int64_t between(char* low, void* at, int64_t size, char* high) {
      return low <= (char*)at && (char*)at + size <= high;
    }
    EXPORT(bits) {
      int64_t bits = ((char*)code2 < etext) + 2 * ((char*)__tvm_ffi_bits < etext);
      bits += 4 * between(__bss_start, zeros1, sizeof zeros1, end);
      bits += 8 * between(__bss_start, zeros2, sizeof zeros2, end);
      bits += 16 * between(0, data1, sizeof data1, edata);
      bits += 32 * between(0, data2, sizeof data2, edata);
      RETURN(bits + 64 * (edata <= end) + 128 * (__bss_start <= end));
    }
    """
    other = """
    #include <stdint.h>
    int64_t zeros2[100], data2[100] = {2};
    int64_t code2(void) { return data2[0]; }
    """
    objects = [compile(text, toolchain=toolchain) for text in (source, other)]
    for given in (objects, objects[::-1]):
        dylib = load_unless_refused(session, given, "end")
        assert compile.dlopen(*given).bits() == 255
        assert dylib is None or dylib["bits"]() == 255


@both_makes
@only_on(X86_64, "elsewhere compilers never ask for the distance to the table")
def test_the_global_offset_table(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    source = """
    #include "safe_call.h"
    int64_t number __attribute__((visibility("hidden"))) = 5;
    EXPORT(at) {
      char* table;
      __asm__("leaq _GLOBAL_OFFSET_TABLE_(%%rip), %0" : "=r"(table));
      RETURN(table - (char*)&number);
    }
    EXPORT(number) {
      char* table;
      int64_t offset;
      __asm__("leaq _GLOBAL_OFFSET_TABLE_(%%rip), %0" : "=r"(table));
      __asm__("movabsq $number@GOTOFF, %0" : "=r"(offset));
      RETURN(*(int64_t*)(table + offset));
    }
    """
    path = compile(source, toolchain=toolchain)
    dylib, module = session.load(path), compile.dlopen(path)
    assert dylib["number"]() == module.number() == 5
    assert max(abs(dylib["at"]()), abs(module.at())) < 1 << 31


OWN = """
#include "safe_call.h"
int64_t SYMBOL(void);
EXPORT(use) { RETURN(SYMBOL()); }
EXPORT(at) { RETURN(SYMBOL); }
"""
# Those that a linker defines only where no object does.
PROVIDED = ["end", "etext", "_etext", "__etext", "edata", "__ehdr_start"]


@both_makes
@pytest.mark.parametrize("symbol", PROVIDED)
@pytest.mark.parametrize(
    "order", ["one object", "user first", "user last", "archive", "an earlier load"]
)
def test_an_own_definition_of_a_symbol_that_a_linker_would_define(
    session: tol.Session,
    compile: Compiler,
    toolchain: Toolchain,
    symbol: str,
    order: str,
    tmp_path: Path,
) -> None:
    definition = f"\n#include <stdint.h>\nint64_t {symbol}(void) {{ return 77; }}\n"
    use = OWN.replace("SYMBOL", symbol)
    user, definer = compile(use, toolchain=toolchain), compile(definition, toolchain=toolchain)
    archive = tmp_path / "some.a"
    subprocess.run(["ar", "rc", archive, definer], check=True)
    objects = {
        "one object": [compile(use + definition, toolchain=toolchain)],
        "user first": [user, definer],
        "user last": [definer, user],
        "archive": [user, archive],
        "an earlier load": [definer, user],
    }[order]
    assert compile.dlopen(*objects).use() == 77
    if order == "an earlier load":
        dylib = session.load(definer)
        dylib.load(user)
    else:
        dylib = session.load(objects)
    assert dylib["use"]() == 77
    assert dylib["at"]() == dylib.lookup(symbol)


@both_makes
def test_own_variables_of_such_names(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    names = ["end", "etext", "edata"]
    definer = compile(
        "#include <stdint.h>\nint64_t end = 1, etext;\nconst int64_t edata = 300;\n"
        "void set(void) { etext = 20; }\n",
        toolchain=toolchain,
    )
    user = compile(
        '#include "safe_call.h"\nextern int64_t end, etext, edata;\nvoid set(void);\n'
        "EXPORT(sum) { set(); RETURN(end + etext + edata); }\n",
        toolchain=toolchain,
    )
    assert session.load([user, definer])["sum"]() == compile.dlopen(user, definer).sum() == 321
    later = session.load(definer)
    later.load(user)
    assert later["sum"]() == 321
    assert all(later.lookup(name) != of_the_executable(name) for name in names)


@both_makes
@only_on(X86_64, "elsewhere zero is as far away for compilers as for the loader")
def test_a_weak_symbol_that_is_missing_where_code_takes_it_for_one_near_by(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    """Zig asks so whether there is a dynamic section."""
    source = """
    #include "safe_call.h"
    __asm__(".weak _DYNAMIC\\n.weak nowhere");
    _Thread_local int64_t last;  // otherwise the load may lie so low that zero is near
    EXPORT(address) { int64_t at; __asm__("lea SYMBOL(%%rip), %0" : "=r"(at)); RETURN(at); }
    EXPORT(high) {
      register int64_t at __asm__("r13");
      __asm__("lea SYMBOL(%%rip), %0" : "=r"(at));
      RETURN(at);
    }
    EXPORT(add) { RETURN(last += INT(0) + INT(1)); }
    """
    for symbol in ("_DYNAMIC", "nowhere"):
        path = compile(source.replace("SYMBOL", symbol), toolchain=toolchain)
        dylib = session.load(path)
        assert (dylib["address"](), dylib["high"](), dylib["add"](3, 4)) == (0, 0, 7)


@both_makes
def test_the_header_tells_of_no_segments(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    """Those who walk through them, as clang's runtime for profiles does, find the end at once."""
    source = """
    #include "safe_call.h"
    #include <elf.h>
    extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
    EXPORT(at) { RETURN(&__ehdr_start); }
    EXPORT(magic) { RETURN(*(const int64_t*)__ehdr_start.e_ident); }
    EXPORT(machine) { RETURN(__ehdr_start.e_machine * 16 + __ehdr_start.e_type); }
    EXPORT(segments) { RETURN(__ehdr_start.e_phnum); }
    """
    path = compile(source, toolchain=toolchain)
    dylib, second, module = session.load(path), session.load(path), compile.dlopen(path)
    for name in ("magic", "machine"):
        assert dylib[name]() == module.get_function(name)()
    assert dylib["segments"]() == 0
    assert dylib["at"]() != second["at"]()
