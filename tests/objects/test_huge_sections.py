# SPDX-License-Identifier: Apache-2.0
"""Sections above 2 GiB: they load, or the size and what is possible are said."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable

import pytest

import tvm_ffi_object_loader as tol
from agreement import ARGUMENTS, TYPED
from compilation import TOOLCHAINS, Compiler, Toolchain
from elf_writer import (
    SHF_ALLOC,
    SHF_WRITE,
    SHT_NOBITS,
    STB_GLOBAL,
    STT_OBJECT,
    Section,
    function,
    symbol,
)
from refusal import Refusal

pytestmark = pytest.mark.matrix


def loads_or_says_the_size(
    load: Callable[[], tol.Dylib], size: int, check: Callable[[tol.Dylib], None]
) -> None:
    try:
        dylib = load()
    except tol.ObjectLoaderError as error:
        said = str(error)
    else:
        check(dylib)
        return
    gibibytes = size / (1 << 30)
    forms = {str(size), f"{size:,}", f"{size:#x}", f"{gibibytes:g} GiB", f"{gibibytes:.1f} GiB"}
    assert any(form in said for form in forms), said
    rest = said
    for form in forms:
        rest = rest.replace(form, "")
    assert re.search(r"\d[\d,.]* ?[GTM]iB|\b\d{9,}\b|\d,\d{3},\d{3},\d{3}|0x[0-9a-f]{7,}", rest), (
        said
    )
    assert "malformed" not in said
    assert "truncated" not in said


HUGE = """
#include "safe_call.h"
static volatile char big[3ull << 30];
static int last = 4;
EXPORT(run) {
  big[(3ull << 30) - 1] += 5;
  big[INT(0)] += 2;
  RETURN(big[(3ull << 30) - 1] + big[0] * 100 + big[1] * 1000 + ++last * 10000);
}
"""


@pytest.mark.parametrize("model", ["small", "medium", "large"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_zeros_of_3_gib(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, model: str
) -> None:
    path = compile(HUGE, "-O2", "-fPIC", f"-mcmodel={model}", toolchain=toolchain)
    dlopened = compile.dlopen(path)
    expected = [dlopened.run(n) for n in ARGUMENTS]

    def check(dylib: tol.Dylib) -> None:
        assert [dylib["run"](n) for n in ARGUMENTS] == expected

    loads_or_says_the_size(lambda: session.load(path), 3 << 30, check)
    assert session.load(compile(TYPED))["run"](1) == 108


@pytest.mark.parametrize("size", [(2 << 30) + 4096, 5 << 30, 1 << 36])
@pytest.mark.parametrize("kind", ["zeros", "common", "large common"])
def test_sizes_above_2_gib(session: tol.Session, size: int, kind: str) -> None:
    if kind == "zeros":
        huge = Section(".huge", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, alignment=16, size=size)
        variable = symbol(13, 3, size - 8, 8, STT_OBJECT, STB_GLOBAL)
        content = function(huge, symbols=variable, names=b"variable\0")
        at = 0
    else:
        section = 0xFFF2 if kind == "common" else 0xFF02
        variable = symbol(13, section, 16, size, STT_OBJECT, STB_GLOBAL)
        content = function(symbols=variable, names=b"variable\0")
        at = size - 8

    def check(dylib: tol.Dylib) -> None:
        assert dylib["f"]() is None
        value = ctypes.c_int64.from_address(dylib.lookup("variable") + at)
        assert value.value == 0
        value.value = 5

    loads_or_says_the_size(lambda: session.load(content), size, check)


@pytest.mark.parametrize("size", [1 << 45, 1 << 47, (1 << 63) - 4096, (1 << 64) - 4096])
def test_absurd_sizes(refusal: Refusal, size: int) -> None:
    huge = Section(".huge", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, alignment=16, size=size)
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(function(huge))
    assert ".huge" in str(caught.value)


def test_two_sections_that_are_too_much_together(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    static volatile char big[3ull << 29];
    EXPORT(NAME) { big[INT(0)] += 2; RETURN(big[0] + big[1] * 10 + big[(3ull << 29) - 1] * 100); }
    """
    objects = [compile(source, "-O2", "-fPIC", f"-DNAME=run{n}") for n in range(2)]
    try:
        dylib = session.load(objects)
    except tol.ObjectLoaderError as error:
        said = str(error)
    else:
        assert [dylib["run0"](0), dylib["run1"](1)] == [2, 20]
        return
    assert re.search(r"\d{9,}|GiB|MiB", said)
    assert "malformed" not in said
