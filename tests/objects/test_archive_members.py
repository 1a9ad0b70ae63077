# SPDX-License-Identifier: Apache-2.0
"""Which members of archives a load links: those of the linker, or those that functions need."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from archives import MakeArchive
from compilation import Compiler
from conftest import Trace
from pulled_members import functions as functions
from pulled_members import member
from refusal import Refusal


def compare(
    session: tol.Session,
    compile: Compiler,
    trace: Trace,
    inputs: list[Path],
    *,
    whole_archive: bool = False,
) -> tuple[list[int], tol.Dylib, tvm_ffi.Module]:
    """Load inputs, and link and dlopen them: what is initialized, and in which order, is the same.

    Return that, with what was loaded.
    """
    flags = ["-Wl,--whole-archive" if whole_archive else "-Wl,--start-group"]
    flags += [*map(str, inputs)]
    flags += ["-Wl,--no-whole-archive" if whole_archive else "-Wl,--end-group"]
    assert trace.take() == []
    dylib = session.load(inputs, whole_archive=whole_archive)
    ours = trace.take()
    module = tvm_ffi.load_module(compile.link(flags=tuple(flags)), keep_module_alive=False)
    assert ours == trace.take()
    return ours, dylib, module


def test_members_are_pulled_in_on_demand(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    user = member(compile, 1, "int first(void); EXPORT(use) { RETURN(first() + INT(0)); }")
    archive = make_archive(
        third=member(compile, 4, "int third(void) { return 3; }"),
        unused=member(compile, 9, "int unused(void) { return 9; }"),
        first=member(compile, 2, "int second(void); int first(void) { return 10 * second(); }"),
        second=member(compile, 3, "int third(void); int second(void) { return 10 * third(); }"),
    )
    events, ours, dlopened = compare(session, compile, trace, [user, archive])
    assert events == [1, 2, 3, 4]
    assert ours["use"](1) == dlopened.use(1) == 301
    assert session.stats().objects == 4
    with pytest.raises(tol.UndefinedSymbolError):
        ours.lookup("unused")


def test_archives_are_searched_until_nothing_more_is_pulled_in(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    user = member(compile, 1, "int a1(void); EXPORT(use) { RETURN(a1()); }")
    first = make_archive(
        a2=member(compile, 2, "int b2(void); int a2(void) { return b2() + 1; }"),
        a1=member(compile, 3, "int b1(void); int a1(void) { return b1() + 10; }"),
    )
    second = make_archive(
        b2=member(compile, 4, "int b2(void) { return 1000; }"),
        b1=member(compile, 5, "int a2(void); int b1(void) { return a2() + 100; }"),
    )
    for inputs in ([user, first, second], [first, user, second], [second, first, user]):
        _, ours, dlopened = compare(session, compile, trace, inputs)
        assert ours["use"]() == dlopened.use() == 1111


def test_the_order_of_members_is_the_linkers(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    needs = [[7, 3], [], [2, 5], [9, 1], [], [4], [0], [2], [], [6, 8]]
    members = {}
    for n, needed in enumerate(needs):
        declared = "".join(f"int f{number}(void); " for number in needed)
        used = ", ".join(["0", *(f"f{number}" for number in needed)])
        code = f"{declared} void* needs{n}[] = {{{used}}}; int f{n}(void) {{ return {n}; }}"
        members[f"m{n}"] = member(compile, 100 + n, code)
    user = member(compile, 1, "int f3(void); EXPORT(use) { RETURN(f3()); }")
    later = member(compile, 2, "int f8(void); EXPORT(use_later) { RETURN(f8()); }")
    events, *_ = compare(session, compile, trace, [user, make_archive(**members), later])
    assert sorted(events) == [1, 2, *range(100, 110)]


def test_an_archive_wins_over_the_link_order_and_the_process(
    session: tol.Session, compile: Compiler, make_archive: MakeArchive
) -> None:
    user = compile(
        '#include "safe_call.h"\nint getpid(void); int level(void);\n'
        "EXPORT(use) { RETURN(getpid() * level()); }\n"
    )
    archive = make_archive(
        pid=compile("int getpid(void) { return -5; }\n"),
        level=compile("int level(void) { return 2; }\n"),
    )
    base = session.load(compile("int level(void) { return 3; }\nint getpid(void) { return 7; }\n"))
    ours = session.load([user, archive], link_order=[base])
    # A dlopened library's own definition comes after the process's.
    linked = compile.link(user, archive, flags=("-Wl,-Bsymbolic",))
    dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
    assert ours["use"]() == dlopened.use() == -10


def test_what_the_load_or_the_dylib_defines_pulls_nothing(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    user = compile('#include "safe_call.h"\nint f(void);\nEXPORT(use) { RETURN(f()); }\n')
    own = compile("int f(void) { return 1; }\n")
    archive = make_archive(f=member(compile, 9, "int f(void) { return 2; }"))
    for inputs in ([user, archive, own], [user, own, archive]):
        assert session.load(inputs)["use"]() == 1
    dylib = session.create_dylib()
    dylib.load(own)
    dylib.load([user, archive])
    assert dylib["use"]() == 1
    assert trace.take() == []
    # What the load of another dylib defines is no reason.
    assert session.load([user, archive])["use"]() == 2
    assert trace.take() == [9]


def test_a_weak_reference_pulls_nothing(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    weak = member(
        compile,
        1,
        "extern __attribute__((weak)) int f(void); EXPORT(use) { RETURN(f ? f() : -1); }",
    )
    strong = member(compile, 2, "int f(void); EXPORT(use_strongly) { RETURN(f()); }")
    archive = make_archive(f=member(compile, 3, "int f(void) { return 2; }"))
    _, ours, dlopened = compare(session, compile, trace, [weak, archive])
    assert ours["use"]() == dlopened.use() == -1
    _, ours, dlopened = compare(session, compile, trace, [weak, strong, archive])
    assert ours["use"]() == dlopened.use() == 2


PROFILED = """
#include "safe_call.h"
__attribute__((section("__llvm_prf_data"), used)) static int64_t data = 5;
EXPORT(NAME) { RETURN(data); }
"""
PROFILE_RUNTIME = """
#include "trace.h"
int __llvm_profile_runtime;
__attribute__((constructor)) static void start(void) { trace(77); }
"""


@pytest.mark.parametrize("within", ["an object", "a member"])
def test_the_runtime_for_profiles_is_pulled_in_though_nothing_refers_to_it(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive, within: str
) -> None:
    """clang's driver sees to it where it links: -u __llvm_profile_runtime."""
    runtime = make_archive(compile(PROFILE_RUNTIME))
    user = compile(PROFILED.replace("NAME", "used"))
    if within == "a member":
        user = make_archive(user)
    assert session.load([user, runtime])["used"]() == 5
    assert trace.take() == [77]
    assert (
        session.load([user])["used"]() == 5
    )  # and where there is none, the profile is not written
    plain = compile(PROFILED.replace("NAME", "used").replace("__llvm_prf_data", "other"))
    dylib = session.load([plain, runtime])
    assert dylib["used"]() == 5
    assert trace.take() == []
    # Once, though each of two loads counts.
    first = session.load([compile(PROFILED.replace("NAME", "used")), runtime])
    first.load([compile(PROFILED.replace("NAME", "again")), runtime])
    assert trace.take() == [77]


def test_common_symbols(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    common = ("-O1", "-fPIC", "-fcommon")
    user = member(compile, 1, "int shared; EXPORT(use) { RETURN(shared); }", *common)
    defines = member(compile, 2, "int shared = 5;")
    too = member(compile, 3, "int shared; int other(void) { return 4; }", *common)
    _, ours, dlopened = compare(session, compile, trace, [user, make_archive(defines=defines)])
    assert ours["use"]() == dlopened.use() == 5
    events, ours, dlopened = compare(session, compile, trace, [user, make_archive(too=too)])
    assert events == [1]
    assert ours["use"]() == dlopened.use() == 0
    wants = member(compile, 4, "extern int shared; EXPORT(use) { RETURN(shared); }")
    for members in ({"a": too, "b": defines}, {"a": defines, "b": too}):
        _, ours, dlopened = compare(session, compile, trace, [wants, make_archive(**members)])
        assert ours["use"]() == dlopened.use() == 5


def test_a_common_symbol_that_the_dylib_defines_pulls_nothing(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    dylib = session.load(compile("int shared = 4;\n"))
    user = compile(
        '#include "safe_call.h"\nint shared;\nEXPORT(use) { RETURN(shared); }\n',
        *("-O1", "-fPIC", "-fcommon"),
    )
    dylib.load([user, make_archive(defines=member(compile, 9, "int shared = 5;"))])
    assert dylib["use"]() == 4
    assert trace.take() == []


def test_an_archive_alone_gives_its_functions(
    session: tol.Session, functions: Path, trace: Trace
) -> None:
    loads: list[Callable[[], tol.Dylib | tol.ObjectLoader | tvm_ffi.Module]] = [
        lambda: session.load(functions),
        lambda: session.load(functions.read_bytes()),
        lambda: session.load_module(str(functions)),
        lambda: tol.ObjectLoader().load(functions),
        lambda: tol.load_module(functions),
        lambda: tvm_ffi.load_module(functions, keep_module_alive=False),
    ]
    for load in loads:
        loaded = load()
        assert [loaded["add"](1, 2), loaded["scale"](3)] == [3, 21]
        assert trace.take() == [1, 2, 3]
    dylib = session.load(functions)
    assert dylib.functions == ["add", "scale"]
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("unused")


def test_an_archive_alone_gives_what_belongs_to_its_functions(
    session: tol.Session, compile: Compiler, functions: Path, trace: Trace
) -> None:
    metadata = member(compile, 5, 'const char __tvm_ffi__metadata_add[] = "{}";')
    subprocess.run(["ar", "rc", functions, metadata], check=True)
    assert session.load(functions).lookup("__tvm_ffi__metadata_add")
    assert trace.take() == [1, 2, 3, 5]


def test_whole_archive(
    session: tol.Session, compile: Compiler, functions: Path, trace: Trace, add_object: Path
) -> None:
    events, ours, dlopened = compare(session, compile, trace, [functions], whole_archive=True)
    assert events == [1, 2, 3, 4]
    assert ours["scale"](3) == dlopened.scale(3) == 21
    assert ours.lookup("unused")
    user = member(compile, 5, "int unused(void); EXPORT(use) { RETURN(unused()); }")
    events, *_ = compare(session, compile, trace, [user, functions], whole_archive=True)
    assert events == [5, 1, 2, 3, 4]
    loads: list[Callable[[], object]] = [
        lambda: session.create_dylib().load(functions, whole_archive=True),
        lambda: session.load_module(functions, whole_archive=True),
        lambda: tol.ObjectLoader().load(functions, whole_archive=True),
        lambda: tol.load_module(functions, whole_archive=True),
    ]
    for load in loads:
        load()
        assert trace.take() == [1, 2, 3, 4]
    # An object is what it is.
    assert session.load(add_object, whole_archive=True)["add"](1, 2) == 3


def test_an_empty_archive(
    session: tol.Session, refusal: Refusal, add_object: Path, make_archive: MakeArchive
) -> None:
    empty = make_archive()
    assert empty.read_bytes() == b"!<arch>\n"
    assert session.load([add_object, empty])["add"](1, 2) == 3
    for load in refusal.entry_points():
        with refusal.of(tol.ObjectFormatError, empty, "nothing to load"):
            load(empty)
    with refusal.of(tol.ObjectFormatError, empty, "nothing to load"):
        refusal.dylib.load(empty, whole_archive=True)


def test_archives_alone_that_export_nothing(
    refusal: Refusal, compile: Compiler, make_archive: MakeArchive
) -> None:
    archive = make_archive(plain=compile("int plain;\n"))
    with refusal.of(tol.ObjectFormatError, archive, "whole_archive=True"):
        refusal.dylib.load(archive)


def test_a_symbol_that_two_members_define(
    refusal: Refusal, compile: Compiler, make_archive: MakeArchive
) -> None:
    user = compile("int f(void), g(void); int use(void) { return f() + g(); }\n")
    archive = make_archive(
        f=compile("int f(void) { return 1; } int both;\n"),
        g=compile("int g(void) { return 1; } int both;\n"),
    )
    names = [f"{archive}({name}.o)" for name in "fg"]
    with refusal.of(tol.DuplicateSymbolError, "both", *names):
        refusal.dylib.load([user, archive])
