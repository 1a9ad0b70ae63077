# SPDX-License-Identifier: Apache-2.0
"""Records of .eh_frame that a compiler does not write, of a function by which exceptions pass."""

from __future__ import annotations

from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from frames import FRAMES
from partial_links import PARTIAL, Merge
from partial_links import merge as merge
from throwers import FACTORS, agree, end, thrower

pytestmark = pytest.mark.matrix

# through(f, n) is f(n).
THROUGH = """
    .section .text.through_{name}, "ax", @progbits
    .globl through_{name}
    .{binding} through_{name}
    .type through_{name}, @function
through_{name}:
.Lbegin_{name}:
    {frames.enter}
.Lafter_push_{name}:
    {frames.call}
    {frames.leave}
    ret
.Lend_{name}:
    .size through_{name}, . - through_{name}
    .text
"""
CALLER = """
#include <stdexcept>
#include <string>
#include "safe_call.h"
extern "C" int64_t THROUGH(int64_t (*)(int64_t), int64_t);
static int64_t thrower(int64_t n) {
  if (n == 1) throw std::runtime_error("a text that is too long for its object to hold");
  if (n == 2) throw n;
  return n + FACTOR;
}
namespace {
struct Counted {
  static int64_t alive;
  Counted() { ++alive; }
  ~Counted() { --alive; }
};
int64_t Counted::alive = 0;
}  // namespace
// Called where exceptions are handled as around the call before: what a signal has interrupted is
// looked up by the address itself, which is one past the call.
__attribute__((noinline)) static int64_t also(int64_t n) {
  if (n == -1) throw n;
  return n;
}
EXPORT(EXPORTED) {
  int64_t result;
  try {
    Counted counted;
    result = also(THROUGH(thrower, INT(0)));
  } catch (const std::exception& error) {
    result = std::string(error.what()).size() * FACTOR;
  } catch (int64_t n) {
    result = n * FACTOR;
  }
  RETURN(result + Counted::alive);
}
"""


def records(
    name: str,
    letters: str,
    size: int | None,
    data: str,
    pointer: str,
    augmentation: str,
    version: int = 1,
    table: str = '.section .eh_frame, "a", @progbits',
) -> str:
    """Return the common information and the record of ``through_NAME``.

    `size` of the augmentation's `data` is None where the letters begin with no z; `augmentation`
    is the record's own. `pointer` gives begin and length of the function.
    """
    return_address = f".{'byte' if version == 1 else 'uleb128'} {FRAMES.return_address}"
    address = ".byte 8, 0" if version == 4 else ""
    length = "" if size is None else f".uleb128 {size}"
    return f"""
    {table}
    .balign 8
.Lcommon_{name}:
    .long .Lcommon_end_{name} - .Lcommon_start_{name}
.Lcommon_start_{name}:
    .long 0
    .byte {version}
    .string "{letters}"
    {address}
    .uleb128 1
    .sleb128 -8
    {return_address}
    {length}
    {data}
    .byte {FRAMES.at_entry}
    .balign 8
.Lcommon_end_{name}:
    .long .Lrecord_end_{name} - .Lrecord_start_{name}
.Lrecord_start_{name}:
    .long .Lrecord_start_{name} - .Lcommon_{name}
    {pointer}
    {augmentation}
    .byte 0x40 + .Lafter_push_{name} - .Lbegin_{name}, {FRAMES.entered}
    .balign 8
.Lrecord_end_{name}:
    .text
"""


RELATIVE = ".long .Lbegin_{0} - .\n .long .Lend_{0} - .Lbegin_{0}"
RELATIVE_8 = ".quad .Lbegin_{0} - .\n .quad .Lend_{0} - .Lbegin_{0}"
ABSOLUTE = ".quad .Lbegin_{0}\n .quad .Lend_{0} - .Lbegin_{0}"
PERSONALITY = ".byte 0x9b\n .long DW.ref.__gxx_personality_v0 - .\n .byte {}, 0x1b"
NONE = ".uleb128 0"
# Letters, size and content of the augmentation, the function's place, the record's augmentation.
Shape = tuple[str, "int | None", str, str, str]
SHAPES: dict[str, Shape] = {
    "no augmentation": ("", None, "", ABSOLUTE, ""),
    "z": ("z", 0, "", ABSOLUTE, NONE),
    "zR": ("zR", 1, ".byte 0x1b", RELATIVE, NONE),
    "zR, wide": ("zR", 1, ".byte 0x1c", RELATIVE_8, NONE),
    "zR, pointers": ("zR", 1, ".byte 0x10", RELATIVE_8, NONE),
    "zR, absolute": ("zR", 1, ".byte 0x00", ABSOLUTE, NONE),
    "zR, absolute 8": ("zR", 1, ".byte 0x0c", ABSOLUTE, NONE),
    "zRS": ("zRS", 1, ".byte 0x1b", RELATIVE, NONE),
    "zRS, pointers": ("zRS", 1, ".byte 0x10", RELATIVE_8, NONE),
    "zS": ("zS", 0, "", ABSOLUTE, NONE),
    "zLR": ("zLR", 2, ".byte 0x1b, 0x1b", RELATIVE, ".uleb128 4\n .long 0"),
    "zLR, no language data": ("zLR", 2, ".byte 0xff, 0x1b", RELATIVE, NONE),
    "zPR": ("zPR", 6, PERSONALITY.replace(".byte {},", ".byte"), RELATIVE, NONE),
    "zPLR": ("zPLR", 7, PERSONALITY.format("0x1b"), RELATIVE, ".uleb128 4\n .long 0"),
    "zPLRS": ("zPLRS", 7, PERSONALITY.format("0x1b"), RELATIVE, ".uleb128 4\n .long 0"),
    "zPLR, wide": (
        "zPLR",
        11,
        ".byte 0x9c\n .quad DW.ref.__gxx_personality_v0 - .\n .byte 0x1c, 0x1c",
        RELATIVE_8,
        ".uleb128 8\n .quad 0",
    ),
    "zPLR, absolute": (
        "zPLR",
        11,
        ".byte 0x80\n .quad DW.ref.__gxx_personality_v0\n .byte 0x00, 0x00",
        ABSOLUTE,
        ".uleb128 8\n .quad 0",
    ),
    "zPLR, direct": (
        "zPLR",
        11,
        ".byte 0x00\n .quad __gxx_personality_v0\n .byte 0x1b, 0x1b",
        RELATIVE,
        ".uleb128 4\n .long 0",
    ),
    "zR and more bytes": (
        "zR",
        5,
        ".byte 0x1b, 1, 2, 3, 4",
        RELATIVE,
        ".uleb128 3\n .byte 1, 2, 3",
    ),
}
DW_REF = """
    .hidden DW.ref.__gxx_personality_v0
    .weak DW.ref.__gxx_personality_v0
    .section .data.DW.ref, "awG", @progbits, DW.ref.__gxx_personality_v0, comdat
    .balign 8
    .type DW.ref.__gxx_personality_v0, @object
    .size DW.ref.__gxx_personality_v0, 8
DW.ref.__gxx_personality_v0:
    .quad __gxx_personality_v0
    .text
"""
NO_STACK = '    .section .note.GNU-stack, "", @progbits\n    .text\n'


def through(shape: str, name: str, version: int = 1, binding: str = "globl", **more: str) -> str:
    """Return assembler for the function ``through_NAME`` with its record."""
    letters, size, data, pointer, augmentation = SHAPES[shape]
    needed = DW_REF if "DW.ref" in data else ""
    of_it = records(name, letters, size, data, pointer.format(name), augmentation, version, **more)
    return THROUGH.format(name=name, frames=FRAMES, binding=binding) + of_it + needed + NO_STACK


def caller(compile: Compiler, name: str, *, text: str = "", toolchain: Toolchain = GCC) -> Path:
    """Return an object whose function throws through ``through_NAME``; `text` is assembler."""
    escaped = "\\n".join(line.replace('"', '\\"') for line in text.splitlines())
    own = f'__asm__("{escaped}\\n");\n' if text else ""
    definitions = (
        f"-DTHROUGH=through_{name}",
        f"-DEXPORTED=run_{name}",
        f"-DFACTOR={FACTORS[name]}",
    )
    return compile.cxx(CALLER + own, "-O2", "-fPIC", *definitions, toolchain=toolchain, name="call")


def reference(compile: Compiler, name: str) -> list[Path]:
    """Return objects that do the same, with the assembler's own records."""
    text = THROUGH.format(name=name, frames=FRAMES, binding="globl")
    text = text.replace(f".Lbegin_{name}:\n", " .cfi_startproc\n")
    text = text.replace(f".Lafter_push_{name}:\n", f".Lafter_push_{name}:\n {FRAMES.cfi_entered}\n")
    text = text.replace("    ret\n", "    ret\n .cfi_endproc\n") + NO_STACK
    return [caller(compile, name), compile(text, language="assembler")]


@pytest.mark.parametrize("version", [1, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("company", ["", "both"])
@pytest.mark.parametrize("where", ["same object", "own object"])
def test_shapes_of_records(
    session: tol.Session, compile: Compiler, where: str, company: str, shape: str, version: int
) -> None:
    text = through(shape, "a", version)
    if where == "same object":
        odd = [caller(compile, "a", text=text.replace(DW_REF, ""))]
    else:
        odd = [caller(compile, "a"), compile(text, language="assembler")]
    b, c = thrower(compile, "b"), thrower(compile, "c", toolchain=TOOLCHAINS[-1])
    before = [b] if company in ("before", "both") else []
    after = [c] if company in ("after", "both") else []
    objects = [*before, *odd, *after]
    names = "a" + "b" * len(before) + "c" * len(after)
    agree(session, compile, objects, names, [*reference(compile, "a"), b, c])


# A linked library with records of version 4 ends the process when something is thrown.
@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_records_agree_with_the_linker(
    session: tol.Session, compile: Compiler, shape: str, version: int
) -> None:
    objects = [caller(compile, "a"), compile(through(shape, "a", version), language="assembler")]
    agree(session, compile, objects, "a", objects)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ["weak first", "weak last"])
def test_shapes_of_records_of_a_definition_that_is_dropped(
    session: tol.Session, compile: Compiler, shape: str, order: str
) -> None:
    weak = compile(through(shape, "a", binding="weak"), language="assembler", name="weak")
    strong = compile(through("zR", "a"), language="assembler", name="strong")
    call = caller(compile, "a")
    both = [weak, strong] if order == "weak first" else [strong, weak]
    plain = [*reference(compile, "a"), thrower(compile, "b")]
    agree(session, compile, [call, *both], "a", plain)
    agree(session, compile, [*both, call, thrower(compile, "b")], "ab", plain)
    # The weak one stays, and is used, where the strong one is another function.
    other = compile(through(shape, "b"), language="assembler", name="other")
    agree(session, compile, [weak, other, call], "a", plain)


@pytest.mark.parametrize("linker", PARTIAL)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_records_after_a_partial_link(
    session: tol.Session, compile: Compiler, merge: Merge, shape: str, linker: str
) -> None:
    odd = compile(through(shape, "a"), language="assembler")
    b = thrower(compile, "b")
    merged = merge(linker, caller(compile, "a"), odd, end(compile), b)
    agree(session, compile, [merged], "ab", [*reference(compile, "a"), b])


SIGNAL_FRAME = f"""
    .text
    .globl through_a
    .type through_a, @function
through_a:
    .cfi_startproc
    .cfi_signal_frame
    {FRAMES.enter}
    {FRAMES.cfi_entered}
    {FRAMES.call}
    nop
    {FRAMES.leave}
    {FRAMES.cfi_left}
    ret
    .cfi_endproc
    .size through_a, . - through_a
    .section .note.GNU-stack, "", @progbits
"""


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_signal_frames_of_the_assembler(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    frame = compile(SIGNAL_FRAME, "-c", language="assembler", toolchain=toolchain)
    call, b = caller(compile, "a", toolchain=toolchain), thrower(compile, "b")
    agree(session, compile, [call, frame], "a", [call, frame])
    agree(session, compile, [b, frame, call], "ab", [call, frame, b])
    weak = compile(
        SIGNAL_FRAME.replace(".globl", ".weak").replace(".text", '.section .text.w, "ax"'),
        "-c",
        language="assembler",
        toolchain=toolchain,
    )
    agree(session, compile, [weak, call, frame], "a", [weak, call, frame])
    agree(session, compile, [weak, call], "a", [weak, call])


@pytest.mark.parametrize("shape", ["zR", "zPLR", "zRS", "no augmentation"])
@pytest.mark.parametrize("mark", ["", ".long 0", ".long 0, 0"])
@pytest.mark.parametrize("place", ["first", "second"])
def test_several_tables_in_one_object(
    session: tol.Session, compile: Compiler, shape: str, mark: str, place: str
) -> None:
    tables = [f'.section .eh_frame, "a", @progbits, unique, {n}' for n in (1, 2)]
    first, second = (
        through(shape, name, table=table) for name, table in zip("ab", tables, strict=True)
    )
    marked = f"{tables[0 if place == 'first' else 1]}\n .balign 4\n {mark}\n .text\n"
    odd = compile(first + second.replace(DW_REF, "") + marked, language="assembler", name="tables")
    callers = [caller(compile, name) for name in "ab"]
    plain = [*reference(compile, "a"), *reference(compile, "b"), thrower(compile, "c")]
    agree(session, compile, [*callers, odd], "ab", plain)
    agree(session, compile, [odd, thrower(compile, "c"), *callers], "abc", plain)
