# SPDX-License-Identifier: Apache-2.0
"""Shapes of .eh_frame that compilers, assemblers and linkers leave: exceptions pass all of them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain
from frames import FRAMES

pytestmark = pytest.mark.matrix

# Functions by which exceptions pass: one that throws, and what catches them.
THROWER = """
#include <stdexcept>
#include <string>
#include "safe_call.h"
extern "C" __attribute__((noinline)) int64_t NAME(int64_t n) {
  std::string text = "a text that is too long for its object to hold";
  if (n == 1) throw std::out_of_range(text + std::to_string(n));
  if (n == 2) throw n;
  return n + FACTOR;
}
EXPORT(EXPORTED) {
  int64_t result;
  try {
    result = NAME(INT(0));
  } catch (const std::exception& error) {
    result = std::string(error.what()).size() * FACTOR;
  } catch (int64_t n) {
    result = n * FACTOR;
  }
  RETURN(result);
}
"""
ARGUMENTS = (0, 1, 2, 3)
FACTORS = {"a": 10, "b": 1000, "c": 100000}


def thrower(
    compile: Compiler, name: str, *flags: str, toolchain: Toolchain = GCC, text: str = THROWER
) -> Path:
    """Return an object with the function ``run_NAME``, which throws and catches."""
    definitions = (f"-DNAME=f_{name}", f"-DEXPORTED=run_{name}", f"-DFACTOR={FACTORS[name]}")
    flags = flags or ("-O2", "-fPIC")
    return compile.cxx(text, *flags, *definitions, toolchain=toolchain, name=name)


def agree(
    session: tol.Session, compile: Compiler, objects: list[Path], names: str, plain: list[Path]
) -> None:
    """The functions give what they do after `plain` was linked."""
    loaded = session.load(objects)
    dlopened = compile.dlopen(*plain)
    for name in names:
        results = [loaded[f"run_{name}"](argument) for argument in ARGUMENTS]
        assert results == [dlopened[f"run_{name}"](argument) for argument in ARGUMENTS]
        assert results[0] == FACTORS[name]
        assert results[2] == 2 * FACTORS[name]


# A record of length 0 ends the table, for those who look through it from its start.

MARKS = {
    "one mark": ".long 0",
    "two marks": ".long 0, 0",
    "a mark and padding": ".long 0, 0, 0, 0",
}
SECTION = '.section .eh_frame, "a", {}\n{}\n.section .note.GNU-stack, "", @progbits\n'


def end(compile: Compiler, marks: str = ".long 0", kind: str = "@progbits") -> Path:
    """Return an object that holds nothing but the end of the table, as crtend.o does."""
    return compile(SECTION.format(kind, marks), language="assembler", name="end")


@pytest.mark.parametrize("kind", ["@progbits", FRAMES.section_type], ids=["PROGBITS", "UNWIND"])
@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("order", ["eab", "aeb", "abe", "eaebe", "eeab", "ebea"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_an_object_that_ends_the_table(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, order: str, marks: str, kind: str
) -> None:
    ending = end(compile, MARKS[marks], kind)
    throwers = {name: thrower(compile, name, toolchain=toolchain) for name in "ab"}
    objects = [ending if letter == "e" else throwers[letter] for letter in order]
    agree(session, compile, objects, "ab", [*throwers.values()])


@pytest.mark.parametrize("name", ["crtend.o", "crtendS.o"])
@pytest.mark.parametrize("first", [False, True])
def test_the_compilers_own_last_object(
    session: tol.Session, compile: Compiler, name: str, first: bool
) -> None:
    command = ["gcc", f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():
        pytest.skip("no such file")
    throwers = [thrower(compile, name) for name in "ab"]
    agree(session, compile, [path, *throwers] if first else [*throwers, path], "ab", throwers)
    agree(session, compile, [throwers[0], path, throwers[1]], "ab", throwers)


def test_later_loads_after_one_that_ends_the_table(session: tol.Session, compile: Compiler) -> None:
    dylib = session.create_dylib()
    ending = end(compile)
    dylib.load([thrower(compile, "a"), ending])
    dylib.load(ending)
    dylib.load([ending, thrower(compile, "b")])
    dylib.load(thrower(compile, "c"))
    for name, factor in FACTORS.items():
        assert dylib[f"run_{name}"](0) == factor
        assert dylib[f"run_{name}"](2) == 2 * factor
        assert dylib[f"run_{name}"](1) > 40 * factor


def test_a_member_that_ends_the_table(
    session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    paths = [end(compile), thrower(compile, "a"), end(compile, ".long 0, 0"), thrower(compile, "b")]
    archive = tmp_path / "all.a"
    subprocess.run(["ar", "rc", archive, *paths], check=True)
    for whole in (False, True):
        dylib = session.load(archive, whole_archive=whole)
        assert [dylib[f"run_{name}"](2) for name in "ab"] == [20, 2000]


def test_nothing_but_the_end(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    EXPORT(run) { RETURN(INT(0) + 1); }
    """
    flags = ("-O2", "-fPIC", "-fno-asynchronous-unwind-tables")
    without = compile(source, *flags)
    for objects in ([without, end(compile)], [end(compile), without]):
        assert session.load(objects)["run"](4) == 5
    session.create_dylib().load(end(compile))


MARK_OF_ITS_OWN = """
__asm__(".pushsection .eh_frame, \\"a\\", KIND\\n MARKS\\n .popsection");
"""


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("company", ["", "before", "after", "both"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_an_object_whose_own_records_follow_the_end(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, company: str, marks: str
) -> None:
    kind = "@progbits" if toolchain is GCC else FRAMES.section_type
    mark = MARK_OF_ITS_OWN.replace("KIND", kind).replace("MARKS", MARKS[marks])
    odd = thrower(compile, "a", toolchain=toolchain, text=mark + THROWER)
    b, c = (thrower(compile, name) for name in "bc")
    objects = {"": [odd], "before": [b, odd], "after": [odd, b], "both": [b, odd, c]}[company]
    plain = [thrower(compile, name) for name in "abc"]
    names = {"": "a", "both": "abc"}.get(company, "ab")
    agree(session, compile, objects, names, plain)


# What `-r` leaves of the end: GNU ld drops all but the last, the others keep them where they were.

PARTIAL = {
    "GNU ld": "ld.bfd",
    "gold": "ld.gold",
    "lld": "ld.lld",
    "mold": "mold",
}
LLD = shutil.which("ld.lld") or (
    shutil.which(f"ld.lld{Path(CLANG.cc).name.removeprefix('clang')}") if CLANG else None
)


def partial_linker(name: str) -> str:
    """Return the path of a linker, or skip the test."""
    path = LLD if name == "lld" else shutil.which(PARTIAL[name])
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


Merge = Callable[..., Path]


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    """Link objects to one with ``-r``."""
    numbers = itertools.count()

    def merged(linker: str, *objects: Path, flags: tuple[str, ...] = ()) -> Path:
        path = tmp_path / f"merged-{next(numbers)}.o"
        command = [partial_linker(linker), "-r", *flags, *map(str, objects), "-o", str(path)]
        if subprocess.run(command, capture_output=linker == "mold", check=False).returncode:
            assert linker == "mold"
            pytest.skip("mold does not link these")
        return path

    return merged


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("order", ["aeb", "abe", "eab", "eaebe"])
@pytest.mark.parametrize("linker", PARTIAL)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_the_end_within_partially_linked_objects(
    session: tol.Session,
    compile: Compiler,
    merge: Merge,
    toolchain: Toolchain,
    linker: str,
    order: str,
    marks: str,
) -> None:
    ending = end(compile, MARKS[marks])
    plain = {name: thrower(compile, name, toolchain=toolchain) for name in "abc"}
    parts = [ending if letter == "e" else plain[letter] for letter in order]
    merged = merge(linker, *parts)
    for objects in ([merged], [merged, plain["c"]], [plain["c"], merged], [ending, merged]):
        names = "abc" if plain["c"] in objects else "ab"
        agree(session, compile, objects, names, [*plain.values()])


@pytest.mark.parametrize("linker", PARTIAL)
def test_partially_linked_objects_are_linked_again(
    session: tol.Session, compile: Compiler, merge: Merge, linker: str
) -> None:
    plain = {name: thrower(compile, name) for name in "abc"}
    ending = end(compile)
    first = merge(linker, plain["a"], ending)
    second = merge(linker, ending, plain["b"])
    agree(session, compile, [first, second, plain["c"]], "abc", [*plain.values()])
    both = merge(linker, first, second, ending)
    agree(session, compile, [both], "ab", [*plain.values()])
    agree(session, compile, [both, plain["c"]], "abc", [*plain.values()])


@pytest.mark.parametrize("linker", PARTIAL)
@pytest.mark.parametrize("name", ["crtend.o", "crtendS.o"])
def test_the_compilers_own_last_object_within(
    session: tol.Session, compile: Compiler, merge: Merge, linker: str, name: str
) -> None:
    command = ["gcc", f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():
        pytest.skip("no such file")
    plain = [thrower(compile, name) for name in "abc"]
    merged = merge(linker, plain[0], path, plain[1])
    agree(session, compile, [merged], "ab", plain)
    agree(session, compile, [merged, plain[2]], "abc", plain)


# Records that a compiler does not write, of a function by which exceptions pass.

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


# Several sections of that name, and empty ones.


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


@pytest.mark.parametrize("ended", [False, True])
def test_tables_that_a_partial_link_keeps_apart(
    session: tol.Session, compile: Compiler, merge: Merge, ended: bool
) -> None:
    plain = [thrower(compile, name) for name in "abc"]
    ending = [end(compile)] if ended else []
    merged = merge("GNU ld", plain[0], *ending, plain[1], flags=("--unique=.eh_frame",))
    agree(session, compile, [merged], "ab", plain)
    agree(session, compile, [merged, plain[2]], "abc", plain)
    agree(session, compile, [plain[2], merged], "abc", plain)


@pytest.mark.parametrize("order", ["eab", "aeb", "abe", "eaebe"])
@pytest.mark.parametrize("kind", ["@progbits", FRAMES.section_type, "@nobits"])
def test_an_empty_table(session: tol.Session, compile: Compiler, order: str, kind: str) -> None:
    empty = end(compile, "", kind)
    throwers = {name: thrower(compile, name) for name in "ab"}
    objects = [empty if letter == "e" else throwers[letter] for letter in order]
    agree(session, compile, objects, "ab", objects)
    assert session.load(empty) is not None


def test_an_empty_table_within_an_object(session: tol.Session, compile: Compiler) -> None:
    empty = '__asm__(".section .eh_frame, \\"a\\", @progbits, unique, 7\\n .text");\n'
    odd = thrower(compile, "a", text=THROWER + empty)
    agree(session, compile, [odd], "a", [odd])
    agree(session, compile, [odd, thrower(compile, "b")], "ab", [odd, thrower(compile, "b")])


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_a_writable_table(
    session: tol.Session, compile: Compiler, tmp_path: Path, toolchain: Toolchain
) -> None:
    path = thrower(compile, "a", toolchain=toolchain)
    writable = tmp_path / "writable.o"
    flags = "--set-section-flags=.eh_frame=alloc,load,data,contents"
    subprocess.run(["objcopy", flags, path, writable], check=True)
    agree(session, compile, [writable], "a", [writable])
    b = thrower(compile, "b")
    agree(session, compile, [writable, b], "ab", [writable, b])


# Functions that are dropped, and their records with them.

SHARED = """
#include <stdexcept>
#include <string>
#include <vector>
#include "safe_call.h"
inline __attribute__((noinline)) int64_t fails(int64_t n) {
  static int64_t calls = 0;
  std::vector<std::string> texts(++calls, "a text that is too long for its object to hold");
  if (n == 1) throw std::out_of_range(texts[0]);
  if (n == 2) throw n;
  return n;
}
template <typename T> __attribute__((noinline)) int64_t passes(T n) {
  std::string text = "another text that is too long for its object to hold";
  try {
    return fails(n);
  } catch (const char*) {
    return text.size();
  }
}
EXPORT(EXPORTED) {
  int64_t result;
  try {
    result = passes(INT(0)) + FACTOR;
  } catch (const std::exception& error) {
    result = std::string(error.what()).size() * FACTOR;
  } catch (int64_t n) {
    result = n * FACTOR;
  }
  RETURN(result);
}
"""


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2"])
@pytest.mark.parametrize("ended", [False, True], ids=["", "with ends"])
@pytest.mark.parametrize("compilers", ["gcc", "clang", "mixed"])
def test_groups_that_are_dropped(
    session: tol.Session, compile: Compiler, compilers: str, ended: bool, level: str
) -> None:
    if compilers != "gcc" and CLANG is None:
        pytest.skip("no clang")
    clang = TOOLCHAINS[-1]
    makes = {"gcc": [GCC] * 3, "clang": [clang] * 3, "mixed": [GCC, clang, GCC]}[compilers]
    objects = [
        thrower(compile, name, level, "-fPIC", toolchain=toolchain, text=SHARED)
        for name, toolchain in zip("abc", makes, strict=True)
    ]
    with_ends = objects
    if ended:
        with_ends = [part for each in objects for part in (each, end(compile))]
    agree(session, compile, with_ends, "abc", objects)


@pytest.mark.parametrize("ended", [False, True], ids=["", "with ends"])
@pytest.mark.parametrize("linker", PARTIAL)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_groups_that_a_partial_link_drops(
    session: tol.Session,
    compile: Compiler,
    merge: Merge,
    toolchain: Toolchain,
    linker: str,
    ended: bool,
) -> None:
    objects = [thrower(compile, name, toolchain=toolchain, text=SHARED) for name in "abc"]
    ending = [end(compile)] if ended else []
    merged = merge(linker, objects[0], *ending, objects[1])
    agree(session, compile, [merged], "ab", objects)
    # Here both sides have the group.
    agree(session, compile, [merged, objects[2]], "abc", objects)
    agree(session, compile, [objects[2], *ending, merged], "abc", objects)


# Objects without records beside others.

WITHOUT = """
#include "safe_call.h"
int64_t plain(int64_t n) { return n * 3; }
EXPORT(run_plain) { RETURN(plain(INT(0)) + 1); }
"""


@pytest.mark.parametrize("how", ["flag", "removed", "debug only"])
@pytest.mark.parametrize("order", ["eab", "aeb", "abe", "eaebe"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_objects_without_records(
    session: tol.Session,
    compile: Compiler,
    tmp_path: Path,
    toolchain: Toolchain,
    order: str,
    how: str,
) -> None:
    flags = ("-O2", "-fPIC", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    if how == "removed":
        without = tmp_path / "without.o"
        path = compile(WITHOUT, toolchain=toolchain)
        subprocess.run(["objcopy", "--remove-section=.eh_frame", path, without], check=True)
    else:
        debug = ("-g",) if how == "debug only" else ()
        without = compile(WITHOUT, *flags, *debug, toolchain=toolchain)
    ending, a, b = end(compile), thrower(compile, "a"), thrower(compile, "b", toolchain=toolchain)
    objects = [{"e": ending, "a": a, "b": b}[letter] for letter in order]
    agree(session, compile, [without, *objects], "ab", [a, b])
    agree(session, compile, [*objects, without], "ab", [a, b])
    dylib = session.load([*objects[:2], without, *objects[2:]])
    assert [dylib["run_plain"](4), dylib["run_a"](2), dylib["run_b"](2)] == [13, 20, 2000]


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_tables_for_exceptions_only(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    flags = ("-O2", "-fPIC", "-fno-asynchronous-unwind-tables")
    objects = [thrower(compile, name, *flags, toolchain=toolchain) for name in "ab"]
    agree(session, compile, [objects[0], end(compile), objects[1]], "ab", objects)
    plain = compile(WITHOUT, *flags, toolchain=toolchain)
    agree(session, compile, [plain, *objects], "ab", objects)
