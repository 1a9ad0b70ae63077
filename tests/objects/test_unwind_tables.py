# SPDX-License-Identifier: Apache-2.0
"""Unwind tables that no compiler writes: they load as a linker takes them, or are refused."""

from __future__ import annotations

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from frames import FRAMES
from refusal import Refusal

FIVE = f"""
.text
.globl __tvm_ffi_five
__tvm_ffi_five:
    {FRAMES.five}
five_end:
"""
# The common information, with what its augmentation says.
COMMON = """
.section .eh_frame, "a", @progbits
common:
    .long common_end - common_start
common_start:
    .long 0
    .byte 1
    .string "{letters}"
    .uleb128 1
    .sleb128 -8
    .byte {return_address}
    .uleb128 {size}
    .byte {data}
    .byte {at_entry}
    .balign 4
common_end:
"""
FRAME = """
    .long frame{name}_end - frame{name}_start
frame{name}_start:
    .long frame{name}_start - common
    .long {begin}
    .long five_end - __tvm_ffi_five
    .uleb128 0
    .balign 4
frame{name}_end:
"""
OF_FIVE = FRAME.format(name="", begin="__tvm_ffi_five - .")
# As `ld.lld -r` leaves the record of a function that it has dropped.
OF_DROPPED = FRAME.format(name="_dropped", begin="0")
THROWER = """
#include <stdexcept>
#include "safe_call.h"
__attribute__((noinline)) static void thrower(int64_t n) {
  if (n) throw std::runtime_error("thrown");
}
EXPORT(throw_and_catch) {
  try {
    thrower(INT(0));
  } catch (const std::exception&) {
    RETURN(42);
  }
  RETURN(0);
}
"""


def table(letters: str, *data: int, records: str = OF_FIVE) -> str:
    common = COMMON.format(
        letters=letters,
        size=len(data),
        data=", ".join(map(str, data)),
        return_address=FRAMES.return_address,
        at_entry=FRAMES.at_entry,
    )
    return FIVE + common + records


@pytest.mark.parametrize(
    "source",
    [
        table("zR", 0x1B),
        table("zR", 0x1B, records=OF_DROPPED + OF_FIVE),
        table("zR", 0x1B, records=OF_FIVE + OF_DROPPED),
        table("zRS", 0x1B),
        # The unwinder takes the first of several.
        table("zRR", 0x1B, 0x00),
    ],
    ids=["ordinary", "dropped first", "dropped last", "signal frame", "two encodings"],
)
def test_the_table_is_read_as_the_unwinder_reads_it(
    session: tol.Session, compile: Compiler, source: str
) -> None:
    thrower = session.load(compile.cxx(THROWER))
    dylib = session.load(compile(source, language="assembler"))
    assert dylib["five"]() == 5
    # All tables are looked through.
    assert thrower["throw_and_catch"](1) == 42


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (table("zSR", 0x1B), "malformed"),
        (table("zR", 0x9B), "an indirect pointer to code"),
        (table("zPR", 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0x1B), "an aligned pointer"),
        (table("zR", 0x1B, records=FRAME.format(name="", begin="8")), "not the object's"),
    ],
    ids=["encoding after an unknown letter", "indirect", "aligned personality", "other code"],
)
def test_a_table_that_the_unwinder_would_misread_is_refused(
    refusal: Refusal, compile: Compiler, source: str, said: str
) -> None:
    path = compile(source, language="assembler")
    with refusal.of(tol.ObjectFormatError, path, "malformed .eh_frame", said):
        refusal.dylib.load(path)


def test_an_empty_table_beside_another(session: tol.Session, compile: Compiler) -> None:
    nothing = '.section .eh_frame, "a", @progbits\n.text\n.globl here\nhere:\n    ret\n'
    empty = compile(nothing, language="assembler")
    for _ in range(20):  # in which order blocks are looked at depends on their addresses
        dylib = session.load([compile.cxx(THROWER), empty])
        assert dylib["throw_and_catch"](1) == 42
