# SPDX-License-Identifier: Apache-2.0
"""The end of .eh_frame, which objects and linkers leave anywhere: exceptions pass all the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from frames import FRAMES
from partial_links import PARTIAL, Merge
from partial_links import merge as merge
from throwers import FACTORS, THROWER, agree, end, thrower

pytestmark = pytest.mark.matrix

# A record of length 0 ends the table, for those who look through it from its start.

MARKS = {
    "one mark": ".long 0",
    "two marks": ".long 0, 0",
    "a mark and padding": ".long 0, 0, 0, 0",
}


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
