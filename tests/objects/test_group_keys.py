# SPDX-License-Identifier: Apache-2.0
"""Section groups of one key: the first is kept, the others are dropped, each as a whole."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain, both_makes
from refusal import Refusal
from section_groups import both_ways, called, compared

pytestmark = pytest.mark.matrix

# Thunks: strong hidden functions in groups (GCC), or weak hidden ones (clang).

THUNK = """
#include "safe_call.h"
typedef int64_t (*Function)(int64_t);
static int64_t plus(int64_t n) { return n + NUMBER; }
static int64_t times(int64_t n) { return n * NUMBER; }
static Function volatile functions[] = {plus, times};
EXPORT(NAME) { RETURN(functions[1](functions[0](INT(0)))); }
"""
GCC_THUNKS = ("-mindirect-branch=thunk", "-mindirect-branch-register")


def thunk(
    compile: Compiler,
    number: int,
    flags: Sequence[str] = ("-O2", *GCC_THUNKS),
    toolchain: Toolchain = GCC,
) -> Path:
    names = (f"-DNAME=f{number}", f"-DNUMBER={number}")
    return compile(THUNK, "-fPIC", *flags, *names, toolchain=toolchain)


@both_ways
@pytest.mark.parametrize(
    ("toolchain", "flags"),
    [
        pytest.param(GCC, ("-O2", *GCC_THUNKS), id="gcc"),
        pytest.param(GCC, ("-O0", *GCC_THUNKS, "-mfunction-return=thunk"), id="gcc, returns"),
        pytest.param(GCC, ("-O2", *GCC_THUNKS, "-fno-plt"), id="gcc, without PLT"),
        *(
            pytest.param(CLANG, (level, "-mretpoline"), id=f"clang {level}")
            for level in ("-O0", "-O2")
            if CLANG is not None
        ),
    ],
)
def test_hidden_thunks_of_several_objects(
    session: tol.Session,
    compile: Compiler,
    together: bool,
    toolchain: Toolchain,
    flags: tuple[str, ...],
) -> None:
    objects = [thunk(compile, number, flags, toolchain) for number in (1, 2, 3)]
    assert compared(session, compile, together, objects, ["f1", "f2", "f3"], 5) == [6, 14, 24]


def test_hidden_thunks_along_a_link_order(session: tol.Session, compile: Compiler) -> None:
    base = session.load(thunk(compile, 1))
    app = session.create_dylib("app", link_order=[base])
    app.load(thunk(compile, 2))
    app.load(thunk(compile, 3))
    assert [base["f1"](5), app["f2"](5), app["f3"](5)] == [6, 14, 24]
    base.close()
    assert called(app, ["f2", "f3"], 5) == [14, 24]


def test_hidden_thunks_are_each_dylibs_own(session: tol.Session, compile: Compiler) -> None:
    first, second = (session.load(thunk(compile, 1)) for _ in range(2))
    first.close()
    assert second["f1"](5) == 6


# Groups of one key whose contents differ.

CONTENT = r"""
#include "processor.h"
#include "safe_call.h"
#define TEXT_(...) #__VA_ARGS__
#define TEXT(...) TEXT_(__VA_ARGS__)
asm(".section .text.f, \"axG\", @progbits, KEY, comdat\n"
    "BINDING\n"
    ".type f, @function\n"
    "f:\n" TAKE(state) PLUS(more) "ret\n"
    ".section .data.f, \"awG\", @progbits, KEY, comdat\n"
    "state: .quad " TEXT(NUMBER) "\n"
    "more: .quad 1000\n"
#ifdef EXTRA
    ".globl extra\n"
    "extra: .quad " TEXT(EXTRA) "\n"
    ".section .bss.f, \"awG\", @nobits, KEY, comdat\n"
    "additional: .zero 64\n"
#endif
    ".text\n");
int64_t f(void);
#ifdef USES_EXTRA
extern int64_t extra;
EXPORT(NAME) { RETURN(f() * 10000 + extra); }
#elif defined ASKS_FOR_EXTRA
extern int64_t extra __attribute__((weak));
EXPORT(NAME) { RETURN(f() * 10000 + (&extra ? extra : -1)); }
#else
EXPORT(NAME) { RETURN(f()); }
#endif
"""
BINDINGS = {
    "strong": ".globl f",
    "weak": ".weak f",
    "hidden": ".globl f; .hidden f",
    "weak hidden": ".weak f; .hidden f",
    "protected": ".globl f; .protected f",
}


def content(
    compile: Compiler,
    name: str,
    number: int,
    *flags: str,
    key: str = "f",
    binding: str = "strong",
    toolchain: Toolchain = GCC,
) -> Path:
    """An object with a group in which `f` returns 1000 + `number`, and a function that calls it."""
    source = CONTENT.replace("KEY", key).replace("BINDING", BINDINGS[binding])
    flags = ("-O2", "-fPIC", f"-DNAME={name}", f"-DNUMBER={number}", *flags)
    return compile(source, *flags, toolchain=toolchain, name=name)


@both_ways
@both_makes
@pytest.mark.parametrize(
    "key", ["f", "another_key", ".data.f"], ids=["its symbol", "a name", "a section"]
)
@pytest.mark.parametrize("binding", BINDINGS)
def test_the_first_group_counts_entirely(
    session: tol.Session,
    compile: Compiler,
    together: bool,
    toolchain: Toolchain,
    key: str,
    binding: str,
) -> None:
    small = content(compile, "small", 1, key=key, binding=binding, toolchain=toolchain)
    large = content(compile, "large", 2, "-DEXTRA=5", key=key, binding=binding, toolchain=toolchain)
    names = ["small", "large"]
    assert compared(session, compile, together, [small, large], names) == [1001, 1001]
    assert compared(session, compile, together, [large, small], names) == [1002, 1002]


@both_ways
def test_groups_of_both_makes_are_one(
    session: tol.Session, compile: Compiler, together: bool
) -> None:
    objects = [
        content(compile, f"f{number}", number, toolchain=toolchain)
        for number, toolchain in enumerate(TOOLCHAINS * 2, 1)
    ]
    count = len(objects)
    names = [f"f{number}" for number in range(1, count + 1)]
    assert compared(session, compile, together, objects, names) == [1001] * count
    assert compared(session, compile, together, objects[::-1], names) == [1000 + count] * count


@both_ways
def test_what_only_the_kept_group_defines_is_found(
    session: tol.Session, compile: Compiler, together: bool
) -> None:
    large = content(compile, "large", 2, "-DEXTRA=5", "-DUSES_EXTRA")
    small = content(compile, "small", 1, "-DUSES_EXTRA")
    names = ["large", "small"]
    assert compared(session, compile, together, [large, small], names) == [10020005] * 2


@both_ways
def test_what_only_the_dropped_group_defines_comes_from_elsewhere(
    session: tol.Session, compile: Compiler, together: bool
) -> None:
    small = content(compile, "small", 1)
    elsewhere = compile("#include <stdint.h>\nint64_t extra = 9;\n")
    large = content(compile, "large", 2, "-DEXTRA=5", "-DUSES_EXTRA")
    objects = [small, elsewhere, large]
    assert compared(session, compile, together, objects, ["large"]) == [10010009]


@both_ways
def test_what_only_the_dropped_group_defines_is_missing(
    refusal: Refusal, compile: Compiler, together: bool
) -> None:
    """GNU ld binds such a reference to null without a word; other linkers refuse it."""
    small = content(compile, "small", 1)
    large = content(compile, "large", 2, "-DEXTRA=5", "-DUSES_EXTRA")
    dylib = refusal.session.create_dylib()
    if not together:
        dylib.load(small)
    with pytest.raises(tol.LinkError, match="extra") as caught:
        dylib.load([small, large] if together else large)
    assert str(large) in str(caught.value)
    assert dylib.functions == ([] if together else ["small"])


@both_ways
@both_makes
def test_what_only_the_dropped_group_defines_is_null_where_it_may(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain
) -> None:
    small = content(compile, "small", 1, toolchain=toolchain)
    large = content(compile, "large", 2, "-DEXTRA=5", "-DASKS_FOR_EXTRA", toolchain=toolchain)
    assert compared(session, compile, together, [small, large], ["large"]) == [10009999]


@both_ways
@pytest.mark.parametrize("weak_first", [True, False], ids=["weak first", "strong first"])
def test_a_group_is_not_dropped_for_a_symbol_that_it_defines(
    session: tol.Session, compile: Compiler, together: bool, weak_first: bool
) -> None:
    grouped = content(compile, "grouped", 1, "-DEXTRA=5", "-DUSES_EXTRA", binding="weak")
    plain = compile("#include <stdint.h>\nint64_t f(void) { return 3; }\n")
    user = compile('#include "safe_call.h"\nint64_t f(void);\nEXPORT(user) { RETURN(f()); }\n')
    objects = [grouped, plain, user] if weak_first else [plain, grouped, user]
    names = ["grouped", "user"]
    if together or not weak_first:
        assert compared(session, compile, together, objects, names) == [30005, 3]
        return
    dylib = session.load(grouped)
    with pytest.raises(tol.DuplicateSymbolError, match="weak"):  # it is bound to its own already
        dylib.load(plain)
    assert dylib["grouped"]() == 10010005


@both_ways
def test_a_strong_symbol_in_groups_of_two_keys_is_defined_twice(
    refusal: Refusal, compile: Compiler, together: bool
) -> None:
    first, second = (content(compile, key, 1, key=key) for key in ("one_key", "other_key"))
    with pytest.raises(subprocess.CalledProcessError):
        compile.link(first, second, quiet=True)
    dylib = refusal.session.create_dylib()
    if not together:
        dylib.load(first)
    with pytest.raises(tol.DuplicateSymbolError) as caught:
        dylib.load([first, second] if together else second)
    assert caught.value.symbols == ("f",)
    assert str(second) in str(caught.value)


def test_a_key_does_not_outlive_a_failed_load(session: tol.Session, compile: Compiler) -> None:
    failing = content(compile, "failing", 1, "-DUSES_EXTRA")
    good = content(compile, "good", 2, "-DEXTRA=5")
    dylib = session.create_dylib()
    with pytest.raises(tol.UndefinedSymbolError, match="extra"):
        dylib.load(failing)
    dylib.load(good)
    dylib.load(failing)
    assert called(dylib, ["good", "failing"]) == [1002, 10020005]


def test_hidden_groups_are_each_dylibs_own(session: tol.Session, compile: Compiler) -> None:
    """Also along a link order: nobody else can be bound to what a dylib's group hides."""
    first, second = (session.load(content(compile, "f", n, binding="hidden")) for n in (1, 2))
    app = session.load(content(compile, "f", 3, binding="hidden"), link_order=[first, second])
    assert [dylib["f"]() for dylib in (first, second, app)] == [1001, 1002, 1003]


@pytest.mark.parametrize("binding", ["strong", "hidden"])
def test_a_key_in_many_loads(session: tol.Session, compile: Compiler, binding: str) -> None:
    numbers = range(1, 11)
    objects = [content(compile, f"f{n}", n, binding=binding) for n in numbers]
    names = [f"f{n}" for n in numbers]
    dylib = session.create_dylib()
    for count, each in enumerate(objects, 1):
        dylib.load(each)
        assert called(dylib, names[:count]) == [1001] * count
    assert called(compile.dlopen(*objects), names) == [1001] * len(objects)


@both_ways
@pytest.mark.parametrize("make", ["ld -r", "strip", "archive", "bytes"])
def test_groups_in_what_tools_have_made(
    session: tol.Session, compile: Compiler, together: bool, make: str, tmp_path: Path
) -> None:
    objects = [content(compile, f"f{number}", number) for number in (1, 2, 3)]
    given: list[Path | bytes] = []
    if make == "ld -r":
        given = [tmp_path / "made", objects[2]]
        subprocess.run(["ld", "-r", *objects[:2], "-o", tmp_path / "made"], check=True)
    elif make == "strip":
        for path in objects:
            given.append(tmp_path / path.name)
            subprocess.run(["strip", "--strip-unneeded", path, "-o", given[-1]], check=True)
    elif make == "archive":
        given = [objects[0], tmp_path / "made"]
        subprocess.run(["ar", "rc", tmp_path / "made", *objects[1:]], check=True)
    else:
        given = [path.read_bytes() for path in objects]
    dylib = session.create_dylib()
    for each in [given] if together else [[each] for each in given]:
        dylib.load(each, whole_archive=make == "archive")
    assert called(dylib, ["f1", "f2", "f3"]) == [1001] * 3


# References from outside of a group that is dropped, to what is local to it.

LOCAL = (
    CONTENT
    + r"""
#ifdef FROM_CODE
__asm__(".type see, @function\n see:\n" TAKE(state) "ret\n");
int64_t see(void) __attribute__((visibility("hidden")));
EXPORT(sees) { RETURN(see()); }
#elif defined FROM_DATA
__asm__(".data\n seen: .quad state\n .text\n");
#elif defined FROM_ARRAY
__asm__(".section .init_array, \"aw\", @init_array\n .quad state\n .text\n");
#elif defined FROM_ANOTHER_GROUP
__asm__(".section .data.g, \"awG\", @progbits, g, comdat\n g: .quad state\n .text\n");
#elif defined FROM_A_TABLE
__asm__(".section .gcc_except_table, \"a\", @progbits\n .quad state\n .text\n");
#endif
"""
)


def outsider(compile: Compiler, flag: str, toolchain: Toolchain) -> Path:
    source = LOCAL.replace("KEY", "f").replace("BINDING", BINDINGS["strong"])
    flags = ("-O2", "-fPIC", "-DNAME=outsider", "-DNUMBER=2", flag)
    return compile(source, *flags, toolchain=toolchain, name="outsider")


@both_ways
@both_makes
@pytest.mark.parametrize("place", ["CODE", "DATA", "ARRAY", "ANOTHER_GROUP"])
def test_a_reference_to_a_local_symbol_of_a_dropped_group(
    refusal: Refusal, compile: Compiler, together: bool, toolchain: Toolchain, place: str
) -> None:
    kept = content(compile, "kept", 1, toolchain=toolchain)
    bad = outsider(compile, f"-DFROM_{place}", toolchain)
    with pytest.raises(subprocess.CalledProcessError):
        compile.link(kept, bad, quiet=True)
    dylib = refusal.session.create_dylib()
    if not together:
        dylib.load(kept)
    # Which of the two names it is the assembler's choice.
    with pytest.raises(tol.LinkError, match=r"state|\.data\.f") as caught:
        dylib.load([kept, bad] if together else bad)
    assert type(caught.value) is tol.LinkError
    assert str(bad) in str(caught.value)
    assert "discarded" in str(caught.value)
    assert dylib.functions == ([] if together else ["kept"])


@both_makes
def test_a_reference_to_a_local_symbol_of_a_kept_group(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    path = outsider(compile, "-DFROM_CODE", toolchain)
    assert called(session.load(path), ["outsider", "sees"]) == [1002, 2]
    objects = [path, content(compile, "other", 1, toolchain=toolchain)]
    assert compared(session, compile, True, objects, ["other", "sees"]) == [1002, 2]


@both_ways
@both_makes
def test_what_describes_a_dropped_group_may_refer_to_it(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain
) -> None:
    kept = content(compile, "kept", 1, toolchain=toolchain)
    table = outsider(compile, "-DFROM_A_TABLE", toolchain)
    names = ["kept", "outsider"]
    assert compared(session, compile, together, [kept, table], names) == [1001, 1001]
