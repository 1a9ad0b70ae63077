# SPDX-License-Identifier: Apache-2.0
"""The embedded library (__tvm_ffi__library_bin): what is malformed is an error, as in the peer."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

pytestmark = pytest.mark.matrix


def number(value: int) -> bytes:
    return struct.pack("<Q", value % (1 << 64))


def vector(*values: int) -> bytes:
    return number(len(values)) + b"".join(map(number, values))


def string(value: bytes) -> bytes:
    return number(len(value)) + value


LIBRARY = string(b"_lib")
MALFORMED = {
    "no index": vector() + vector(),
    "no index, but the library": vector() + vector() + LIBRARY,
    "one index": vector(0) + vector(),
    "one index and the library": vector(0) + vector() + LIBRARY,
    "begins with one": vector(1, 1) + vector() + LIBRARY,
    "begins with one of one": vector(1, 1) + vector(0) + LIBRARY,
    "begins far off": vector(1 << 40, 1 << 40) + vector() + LIBRARY,
    "begins below zero": vector(-1, 0) + vector() + LIBRARY,
    "goes down": vector(0, 2, 1, 1) + vector(1, 2) + LIBRARY * 3,
    "goes past the end": vector(0, 1) + vector() + LIBRARY,
    "goes far past the end": vector(0, 1 << 60) + vector(0) + LIBRARY,
    "imports itself": vector(0, 1) + vector(0) + LIBRARY,
    "imports each other": vector(0, 1, 2) + vector(1, 0) + LIBRARY * 2,
    "imports what is not there": vector(0, 1) + vector(7) + LIBRARY,
    "imports below zero": vector(0, 1) + vector(-1) + LIBRARY,
    "imports far off": vector(0, 1) + vector(1 << 61) + LIBRARY,
    "of an unknown kind": vector(0, 0) + vector() + string(b"nokind") + string(b"x"),
    "of no kind": vector(0, 0) + vector() + string(b""),
    "only an index": vector(0),
    "no modules": vector(0, 0) + vector(),
    "fewer modules": vector(0, 1, 1) + vector(1) + LIBRARY,
    "cut kind": vector(0, 0) + vector() + number(4) + b"_l",
    "cut length": vector(0, 0) + vector() + b"\4\0\0",
    "cut index": vector(0, 0)[:-3],
    "cut content": vector(0, 0) + vector() + string(b"nokind") + number(100) + b"x",
    "nothing": b"",
    "one byte": b"\0",
    "large index": number(1 << 60),
    "largest index": number((1 << 64) - 1),
    "large kind": vector(0, 0) + vector() + number(1 << 62) + b"_lib",
    "largest kind": vector(0, 0) + vector() + number((1 << 64) - 1) + b"_lib",
}
# What the linked library and the peer take.
TAKEN = {
    "whole": vector(0, 0) + vector() + LIBRARY,
    "trailing bytes": vector(0, 0) + vector() + LIBRARY + b"xxxx",
    "more trailing bytes": vector(0, 0) + vector() + LIBRARY + bytes(64),
    "unused import": vector(0, 0) + vector(0) + LIBRARY,
    "unused module": vector(0, 0, 0) + vector() + LIBRARY * 2,
}
EMBEDS = """
#include "safe_call.h"
const unsigned char __tvm_ffi__library_bin[] = {BYTES};
void* __tvm_ffi__library_ctx = 0;
EXPORT(run) { RETURN(7); }
EXPORT(context) { RETURN(__tvm_ffi__library_ctx != 0); }
"""


def embedding(compile: Compiler, stream: bytes, name: str) -> Path:
    data = ",".join(map(str, string(stream)))
    return compile(EMBEDS.replace("BYTES", data), "-O1", "-fPIC", name="embedding")


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_library_binary(
    session: tol.Session, compile: Compiler, add_object: Path, kind: str
) -> None:
    path = embedding(compile, MALFORMED[kind], kind)
    good = session.load(add_object)
    before = session.stats().as_dict()

    def check() -> None:
        for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data"):
            assert session.stats().as_dict()[key] == before[key]
        assert good.functions == ["add"]
        assert list(good.module.imports) == []

    loads: list[Callable[[], object]] = [
        functools.partial(good.load, path),
        functools.partial(good.load, [path, compile("int beside;\n")]),
        lambda: session.load(path),
        lambda: session.load_module(path),
        lambda: session.load_module(path.read_bytes()),
    ]
    for load in loads:
        with pytest.raises(RuntimeError) as caught:
            load()
        assert str(caught.value)
        check()
    elsewhere: list[Callable[[], object]] = [
        lambda: tol.load_module(path),
        lambda: tol.ObjectLoader().load(path),
        lambda: tvm_ffi.load_module(path),
    ]
    for load in elsewhere:
        with pytest.raises(RuntimeError):
            load()
    assert good["add"](1, 2) == 3
    good.load(embedding(compile, TAKEN["whole"], "whole"))
    assert [good["run"](), good["context"]()] == [7, 1]
    assert list(good.module.imports) == []


@pytest.mark.parametrize("kind", TAKEN)
def test_a_library_binary_that_is_taken(session: tol.Session, compile: Compiler, kind: str) -> None:
    path = embedding(compile, TAKEN[kind], kind)
    dlopened = compile.dlopen(path)
    assert [dlopened.run(), dlopened.context()] == [7, 1]
    said = ""
    for load in (session.load, session.load_module):
        try:
            loaded = load(path)
        except RuntimeError as error:
            said = str(error)
        else:
            assert [loaded["run"](), loaded["context"]()] == [7, 1]
    # To be strict about what is there for nothing is no fault; about the rest it is.
    assert not said or "trailing" in kind or "unused" in kind
