# SPDX-License-Identifier: Apache-2.0
"""CREL, a compact format of relocation tables (SHT_CREL)."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, Compiler
from elf_writer import (
    ABSOLUTE_64,
    RELATIVE_32,
    SHF_ALLOC,
    SHF_WRITE,
    SHT_CREL,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_RELA,
    STB_GLOBAL,
    STT_OBJECT,
    Section,
    function,
    relocation,
    relocations,
    symbol,
)
from processors import PROCESSOR
from refusal import Refusal
from section_headers import (
    ARGUMENTS,
    SIZE,
    agrees,
    changed,
    exporting,
    field,
    has_flags,
    names_of_type,
)

pytestmark = pytest.mark.matrix

CREL_FLAGS = ("-Wa,--crel,--allow-experimental-crel",)
needs_crel = pytest.mark.skipif(
    CLANG is None or not has_flags(CLANG, *CREL_FLAGS), reason="no clang that writes CREL"
)
CREL_MODELS = {
    "plain": (),
    "sections": ("-ffunction-sections", "-fdata-sections"),
    "debug": ("-g", "-ffunction-sections"),
    "no PLT": ("-fno-plt",),
    "large": ("-mcmodel=large",),
    "patchable": ("-fpatchable-function-entry=4,2",),
    "no section groups": ("-fno-unique-section-names",),
}
IN_C = """
#include <stdlib.h>
#include <string.h>
static int64_t twice(int64_t n) { return 2 * n; }
static int64_t square(int64_t n) { return n * n; }
static int64_t (*const functions[])(int64_t) = {twice, square, labs, twice};
int64_t numbers[600] = {5, 6, 7};
int64_t* const inside[] = {&numbers[2], &numbers[1], &numbers[0], &numbers[599]};
static const char* const words[] = {"zero", "one", "three", "fourteen"};
_Thread_local int64_t counter = 3;
__attribute__((constructor)) static void init(void) { numbers[599] = 1000; }
EXPORT(run) {
  int64_t n = INT(0);
  RETURN(functions[n](n - 7) + *inside[n] + strlen(words[n]) * 100 + counter++);
}
"""
IN_CXX = """
#include <map>
#include <stdexcept>
#include <string>
struct Base { virtual ~Base() = default; virtual int64_t get(int64_t n) const = 0; };
struct Thrower : Base {
  int64_t get(int64_t n) const override {
    if (n == 1) throw std::out_of_range("a text that is longer than a short string");
    if (n == 2) throw n;
    return n + 7;
  }
};
template <typename T> struct Counted {
  static T alive;
  Counted() { ++alive; }
  ~Counted() { --alive; }
};
template <typename T> T Counted<T>::alive = 0;
static std::map<std::string, int64_t> initialized = {{"one", 1}, {"two", 20}};
__attribute__((noinline)) int64_t call(const Base& base, int64_t n) {
  Counted<int64_t> counted;
  return base.get(n);
}
EXPORT(run) {
  static const Thrower thrower;
  int64_t result;
  try {
    result = call(thrower, INT(0));
  } catch (const std::exception& error) {
    result = std::string(error.what()).size() * 100;
  } catch (int64_t n) {
    result = -n;
  }
  RETURN(result + Counted<int64_t>::alive + initialized["two"] * 100000);
}
"""
TEXTS = {"c": '#include "safe_call.h"\n' + IN_C, "c++": '#include "safe_call.h"\n' + IN_CXX}


@needs_crel
@pytest.mark.parametrize("model", CREL_MODELS)
@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("language", ["c", "c++"])
def test_crel_loads(
    session: tol.Session, compile: Compiler, language: str, level: str, model: str
) -> None:
    assert CLANG is not None
    flags = (level, "-fPIC", *CREL_MODELS[model])
    make = compile if language == "c" else compile.cxx
    path = make(TEXTS[language], *flags, *CREL_FLAGS, toolchain=CLANG)
    content = path.read_bytes()
    assert names_of_type(content, SHT_CREL)
    assert not names_of_type(content, SHT_RELA)
    agrees(session, compile, path, make(TEXTS[language], *flags, toolchain=CLANG))


@needs_crel
def test_crel_of_many_functions(session: tol.Session, compile: Compiler) -> None:
    assert CLANG is not None
    count = 2000
    source = '#include "safe_call.h"\n' + "".join(
        f"int64_t data_{n} = {n};\nint64_t f_{n}(void) {{ return data_{n}; }}\n"
        for n in range(count)
    )
    source += f"int64_t (*all[])(void) = {{{', '.join(f'f_{n}' for n in range(count))}}};\n"
    source += f"EXPORT(run) {{ int64_t t = 0; for (int i = 0; i < {count}; ++i)"
    source += " t += all[i]() * (i % 3 + INT(0)); RETURN(t); }\n"
    flags = ("-O0", "-fPIC", "-ffunction-sections")
    path = compile(source, *flags, *CREL_FLAGS, toolchain=CLANG)
    agrees(session, compile, path, compile(source, *flags, toolchain=CLANG))


@needs_crel
def test_crel_beside_others(session: tol.Session, compile: Compiler, tmp_path: Path) -> None:
    assert CLANG is not None
    user = (
        '#include "safe_call.h"\nint64_t part(int64_t n);\nEXPORT(run) { RETURN(part(INT(0))); }\n'
    )
    part = (
        '#include "safe_call.h"\nint64_t data = 5;\nint64_t part(int64_t n) { return n * data; }\n'
    )
    plain = [compile(source, toolchain=CLANG) for source in (user, part)]
    crel = [
        compile(source, "-O2", "-fPIC", *CREL_FLAGS, toolchain=CLANG) for source in (user, part)
    ]
    expected = [compile.dlopen(*plain).run(n) for n in ARGUMENTS]
    archive = tmp_path / "part.a"
    subprocess.run(["ar", "rcS", archive, crel[1]], check=True)
    for objects in ([plain[0], crel[1]], [crel[0], plain[1]], crel, [plain[0], archive]):
        dylib = session.load(objects)
        assert [dylib["run"](n) for n in ARGUMENTS] == expected


@needs_crel
def test_crel_with_an_undefined_symbol(refusal: Refusal, compile: Compiler) -> None:
    assert CLANG is not None
    source = "int missing(void);\nint use(void) { return missing(); }\n"
    path = compile(source, "-O2", "-fPIC", *CREL_FLAGS, toolchain=CLANG)
    with refusal.of(tol.UndefinedSymbolError, path, "missing") as caught:
        refusal.dylib.load(path)
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert caught.value.symbols == ("missing",)


@needs_crel
@pytest.mark.parametrize("language", ["c", "c++"])
def test_crel_that_is_cut(refusal: Refusal, compile: Compiler, language: str) -> None:
    assert CLANG is not None
    make = compile if language == "c" else compile.cxx
    path = make(TEXTS[language], "-O2", "-fPIC", *CREL_FLAGS, toolchain=CLANG)
    content = path.read_bytes()
    size = field(content, ".crel.text", SIZE)
    assert size > 20
    for cut in {*range(0, size, max(1, size // 40)), size - 1, size - 2, 1, 2}:
        with refusal.of(tol.ObjectFormatError, "<bytes>"):
            refusal.dylib.load(changed(content, ".crel.text", SIZE, cut))


@pytest.mark.parametrize("content", [b"\x80", b"\x0c\x07", b"\x0c\x07\x01\x01\x08\0\0"], ids=len)
def test_the_malformed_table_is_named(refusal: Refusal, content: bytes) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".crel.data"):
        refusal.dylib.load(with_crel(content))


def uleb(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def sleb(value: int) -> bytes:
    out = bytearray()
    while not -64 <= value < 64:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    return bytes([*out, value & 0x7F])


Entry = tuple[int, int, int, int]  # offset, symbol, type, addend


def crel(*entries: Entry, addends: bool = True, shift: int = 0, count: int | None = None) -> bytes:
    """Return the content of an SHT_CREL section."""
    bits = 3 if addends else 2
    number = len(entries) if count is None else count
    out = uleb(number << 3 | addends << 2 | shift)
    last: Entry = (0, 0, 0, 0)
    for entry in entries:
        offset, symbol_, kind, addend = (new - old for new, old in zip(entry, last, strict=True))
        low = (symbol_ != 0) | (kind != 0) << 1 | (addend != 0 and addends) << 2
        offset = (offset >> shift) % (1 << 64)
        first = offset % (1 << (7 - bits)) << bits | low
        rest = offset >> (7 - bits)
        out += bytes([first | 0x80]) + uleb(rest) if rest else bytes([first])
        for changed_, present in ((symbol_, True), (kind, True), (addend, addends)):
            if changed_ and present:
                out += sleb((changed_ + (1 << 63)) % (1 << 64) - (1 << 63))
        last = entry
    return out


def with_crel(content: bytes, name: str = ".crel.data") -> bytes:
    """Return an object with data of 16 bytes to which CREL relocations apply."""
    of = name.removeprefix(".crel")
    return exporting(Section(name, SHT_CREL, 0, content, ".symtab", of, 1, 1))


POINTS = (0, 1, ABSOLUTE_64, 8)
WHOLE: dict[str, tuple[list[Entry], int]] = {
    "none": ([], 0),
    "one": ([POINTS], 0),
    "two": ([POINTS, (8, 1, ABSOLUTE_64, 0)], 0),
    "backwards": ([(8, 2, ABSOLUTE_64, 3), (0, 1, ABSOLUTE_64, -(1 << 63))], 0),
    "largest addend": ([POINTS, (8, 2, ABSOLUTE_64, (1 << 63) - 1)], 0),
    "addends of one byte": ([(0, 1, ABSOLUTE_64, 63), (8, 1, ABSOLUTE_64, -1)], 0),
    "addends of two bytes": ([(0, 1, ABSOLUTE_64, 64), (8, 1, ABSOLUTE_64, -65)], 0),
    "shifted by one": ([(0, 1, ABSOLUTE_64, 0), (8, 3, RELATIVE_32, 0)], 1),
    "shifted by two": ([(4, 1, ABSOLUTE_64, 7), (12, 1, RELATIVE_32, 1)], 2),
    "shifted by three": ([(8, 3, ABSOLUTE_64, 1), (0, 2, ABSOLUTE_64, -1)], 3),
    "no relocation": (
        [(0, 1, RELATIVE_32, 1), (4, 0, PROCESSOR.none, 0), (8, 1, ABSOLUTE_64, 9)],
        0,
    ),
}


@pytest.mark.parametrize("form", ["RELA", "CREL"])
@pytest.mark.parametrize("kind", WHOLE)
def test_crel_written_by_hand(session: tol.Session, kind: str, form: str) -> None:
    entries, shift = WHOLE[kind]
    if form == "CREL":
        content = crel(*entries, shift=shift)
        table = Section(".crel.data", SHT_CREL, 0, content, ".symtab", ".data", 1, 1)
    else:
        table = relocations(".data", *(relocation(*entry) for entry in entries))
    variable = symbol(13, 2, 8, 8, STT_OBJECT, STB_GLOBAL)
    dylib = session.load(function(table, symbols=variable, names=b"variable\0"))
    data = dylib.lookup("variable") - 8
    addresses = {1: data, 2: dylib.lookup("__tvm_ffi_f"), 3: data + 8}
    expected = bytearray(16)
    for offset, number, type_, addend in entries:
        if type_ == ABSOLUTE_64:
            value = (addresses[number] + addend) % (1 << 64)
            struct.pack_into("<Q", expected, offset, value)
        elif type_ == RELATIVE_32:
            struct.pack_into("<i", expected, offset, addresses[number] + addend - data - offset)
    assert ctypes.string_at(data, 16) == bytes(expected)


@pytest.mark.parametrize("shift", [0, 3])
def test_crel_without_addends(session: tol.Session, shift: int) -> None:
    # What no processor here has: it has a meaning, if it is not refused.
    entries: list[Entry] = [(0, 1, ABSOLUTE_64, 0), (8, 2, ABSOLUTE_64, 0)]
    content = crel(*entries, addends=False, shift=shift)
    table = Section(".crel.data", SHT_CREL, 0, content, ".symtab", ".data", 1, 1)
    variable = symbol(13, 2, 8, 8, STT_OBJECT, STB_GLOBAL)
    try:
        dylib = session.load(function(table, symbols=variable, names=b"variable\0"))
    except tol.ObjectFormatError:
        return
    data = dylib.lookup("variable") - 8
    expected = struct.pack("<QQ", data, dylib.lookup("__tvm_ffi_f"))
    assert ctypes.string_at(data, 16) == expected


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "no header"),
        (b"\x80", "cut header"),
        (b"\x80" * 10, "header without end"),
        (b"\xff" * 20, "header of 140 bits"),
        (crel(count=1), "count, nothing else"),
        (crel(POINTS, count=2), "count too large by one"),
        (crel(POINTS, count=1 << 40), "count of a trillion"),
        (crel(POINTS, count=(1 << 61) - 1), "largest count"),
        (crel(POINTS, count=0), "count too small"),
        (crel(POINTS, (8, 1, ABSOLUTE_64, 0), count=1), "count too small by one"),
        (crel(POINTS) + b"\0", "one byte more"),
        (crel(POINTS) + bytes(20), "20 bytes more"),
        (crel(POINTS)[:-1], "cut by one"),
        (crel(POINTS)[:2], "cut to two"),
        (crel((0, 1, ABSOLUTE_64, 1 << 40))[:-2], "cut in an addend"),
        (b"\x0c\x07\x01\x01" + b"\xff" * 12 + b"\x01", "addend of 90 bits"),
        (b"\x0c\x07" + b"\xff" * 6 + b"\x00\x01\x08", "symbol of 42 bits"),
        (b"\x0c\x07\x7f\x01\x08", "symbol below zero"),
        (crel((0, 77, ABSOLUTE_64, 0)), "symbol that is missing"),
        (crel((0, 0xFFFFFFFF, ABSOLUTE_64, 0)), "symbol far off"),
        (crel((16, 1, ABSOLUTE_64, 0)), "past the section's end"),
        (crel((9, 1, ABSOLUTE_64, 0)), "over the section's end"),
        (crel((1 << 62, 1, ABSOLUTE_64, 0)), "far past the end"),
        (crel((16, 1, ABSOLUTE_64, 0), shift=3), "past the end, shifted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_crel_that_is_malformed(refusal: Refusal, content: bytes, kind: str) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(with_crel(content))


@pytest.mark.parametrize("kind", [99, 200, 255, 1 << 20])
def test_crel_with_an_unknown_type_of_relocation(refusal: Refusal, kind: int) -> None:
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(with_crel(crel((0, 1, kind, 0))))
    assert str(kind) in str(caught.value) or hex(kind) in str(caught.value)


def test_crel_of_sections_that_take_none(refusal: Refusal, session: tol.Session) -> None:
    aside = Section(".aside", SHT_PROGBITS, 0, bytes(16), alignment=8)
    table = Section(".crel.aside", SHT_CREL, 0, crel(POINTS), ".symtab", ".aside", 1, 1)
    assert session.load(function(aside, table))["f"]() is None
    bss = Section(".bss", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, size=16, alignment=8)
    table = Section(".crel.bss", SHT_CREL, 0, crel(POINTS), ".symtab", ".bss", 1, 1)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(exporting(bss, table, section=3))
    table = Section(".crel.data", SHT_CREL, 0, crel(POINTS), ".symtab", 99, 1, 1)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(function(table))
    table = Section(".crel.symtab", SHT_CREL, 0, crel(POINTS), ".symtab", ".symtab", 1, 1)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(function(table))
