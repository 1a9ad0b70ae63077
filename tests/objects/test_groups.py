# SPDX-License-Identifier: Apache-2.0
"""Section groups: of each key the first is kept and the others are dropped, each as a whole.

Objects are given to one load, or to one load each of the same dylib. Either way the linked library
that has them all is what they are compared with.
"""

from __future__ import annotations

import gc
import itertools
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain
from conftest import Trace
from elf_writer import (
    SHF_ALLOC,
    SHF_GROUP,
    SHF_WRITE,
    SHT_GROUP,
    SHT_PROGBITS,
    STB_GLOBAL,
    Section,
    function,
    symbol,
)
from processors import PROCESSOR
from refusal import Refusal

pytestmark = pytest.mark.matrix

GRP_COMDAT = 1

both_ways = pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
both_makes = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)


def load(session: tol.Session, together: bool, *objects: Path | bytes) -> tol.Dylib:
    """Load the objects into a dylib, at once or one after the other."""
    dylib = session.create_dylib()
    for given in [list(objects)] if together else [[each] for each in objects]:
        dylib.load(given)
    return dylib


def called(of: tol.Dylib | tvm_ffi.Module, names: Sequence[str], *arguments: int) -> list[Any]:
    return [of.get_function(name)(*arguments) for name in names]


def compared(
    session: tol.Session,
    compile: Compiler,
    together: bool,
    objects: Sequence[Path],
    names: Sequence[str],
    *arguments: int,
) -> list[Any]:
    """Return what the functions return, which is what the linked library's return."""
    ours = called(load(session, together, *objects), names, *arguments)
    assert ours == called(compile.dlopen(*objects), names, *arguments)
    return ours


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


THREAD = r"""
#include "safe_call.h"
__asm__(".section .tdata.t, \"awGT\", @progbits, t, comdat\n"
        ".globl t\n .type t, @object\n .size t, 8\n"
        "t: .quad NUMBER\n"
        ".section .tbss.u, \"awGT\", @nobits, t, comdat\n"
        ".globl u\n .type u, @object\n .size u, 8\n"
        "u: .zero 8\n"
        ".text\n");
extern _Thread_local int64_t t, u;
EXPORT(fNUMBER) { u += 10; RETURN(t + u); }
"""


@both_ways
@both_makes
def test_thread_local_variables_in_groups(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain
) -> None:
    objects = [compile(THREAD.replace("NUMBER", n), toolchain=toolchain) for n in "123"]
    names = ["f1", "f2", "f3"]
    assert compared(session, compile, together, objects, names) == [11, 21, 31]


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


# What is a member of a group: constructors, entries of arrays, anything that compilers put there.

TRACER = """
#include "trace.h"
void trace_event(int64_t event) { trace(event); }
"""
HOOK = r"""
#include "processor.h"
__asm__(".section .text.hook, \"axG\", @progbits, KEY\n"
    "VISIBLE\n"
    "hook:\n" PASS(NUMBER) GO(trace_event)
    ".section SECTION, \"awG\", @TYPE, KEY\n"
    ".balign 8\n"
    ".quad hook\n"
    ".text\n");
"""
ARRAYS = {
    ".init_array": "init_array",
    ".init_array.5": "init_array",
    ".fini_array": "fini_array",
    ".fini_array.5": "fini_array",
    ".ctors": "progbits",
    ".ctors.65530": "progbits",
    ".dtors": "progbits",
}


def hooks(
    compile: Compiler, key: str, section: str, toolchain: Toolchain, visible: str = ""
) -> list[Path]:
    """Give objects that trace 1, 2 and 3 when they are loaded or unloaded, and the tracer."""
    source = HOOK.replace("KEY", key).replace("VISIBLE", visible)
    source = source.replace("SECTION", section).replace("TYPE", ARRAYS[section])
    sources = [source.replace("NUMBER", str(number)) for number in (1, 2, 3)]
    return [compile(TRACER), *(compile(source, toolchain=toolchain) for source in sources)]


def events(
    session: tol.Session, compile: Compiler, trace: Trace, together: bool, objects: Sequence[Path]
) -> tuple[list[int], list[int]]:
    """Return what is traced from load to unload, by this package and by dlopen."""
    load(session, together, *objects).close()
    ours = trace.take()
    library = compile.dlopen(*objects)
    del library
    gc.collect()
    return ours, trace.take()


@both_ways
@both_makes
@pytest.mark.parametrize("section", ARRAYS)
@pytest.mark.parametrize("visible", ["", ".globl hook", ".weak hook", ".globl hook; .hidden hook"])
def test_constructors_in_groups_run_once(
    session: tol.Session,
    compile: Compiler,
    trace: Trace,
    together: bool,
    toolchain: Toolchain,
    section: str,
    visible: str,
) -> None:
    objects = hooks(compile, "hook_key, comdat", section, toolchain, visible)
    ours, dlopened = events(session, compile, trace, together, objects)
    assert ours == dlopened == [1]


@both_ways
@both_makes
@pytest.mark.parametrize("section", ARRAYS)
def test_constructors_in_groups_that_are_not_comdat_all_run(
    session: tol.Session,
    compile: Compiler,
    trace: Trace,
    together: bool,
    toolchain: Toolchain,
    section: str,
) -> None:
    objects = hooks(compile, "hook_key", section, toolchain)
    ours, dlopened = events(session, compile, trace, together, objects)
    assert sorted(ours) == sorted(dlopened) == [1, 2, 3]
    if together:
        assert ours == dlopened


ARRAY = r"""
#include "safe_call.h"
__asm__(".section entries, \"awG\", @progbits, KEY\n .quad 100 * NUMBER\n"
        ".section entries, \"aw\", @progbits\n .quad NUMBER\n"
        ".text\n");
extern int64_t __start_entries[] VISIBLE, __stop_entries[] VISIBLE;
EXPORT(fNUMBER) {
  int64_t sum = 0;
  for (int64_t* entry = __start_entries; entry != __stop_entries; ++entry) sum += *entry;
  RETURN(sum);
}
"""


@both_makes
@pytest.mark.parametrize("visible", ["", '__attribute__((visibility("hidden")))'])
@pytest.mark.parametrize(
    ("key", "total"), [("key, comdat", 100 + 1 + 2), ("key", 100 + 1 + 200 + 2)]
)
def test_entries_of_an_array_in_groups(
    session: tol.Session,
    compile: Compiler,
    toolchain: Toolchain,
    visible: str,
    key: str,
    total: int,
) -> None:
    source = ARRAY.replace("KEY", key).replace("VISIBLE", visible)
    objects = [compile(source.replace("NUMBER", n), toolchain=toolchain) for n in "12"]
    assert compared(session, compile, True, objects, ["f1", "f2"]) == [total] * 2
    # One by one, each load has an array of its own, and no entry is in two of them.
    assert sum(called(load(session, False, *objects), ["f1", "f2"])) == total


INITIALIZED = """
#include "safe_call.h"
#include "trace.h"
namespace VISIBLE entities {
struct Traced {
  explicit Traced(int event) : event_(event) { trace(event); }
  ~Traced() { trace(-event_); }
  int64_t event_;
};
inline Traced variable(4);
template <int N> struct Holder { static Traced member; inline static Traced other{N + 1}; };
template <int N> Traced Holder<N>::member(N);
template <typename T> T generic(30);
inline Traced& local() { static Traced object(40); return object; }
}
using namespace entities;
EXPORT(NAME) {
  RETURN(++variable.event_ + 100 * ++Holder<5>::member.event_ + 10000 * ++Holder<5>::other.event_ +
         1000000 * ++generic<Traced>.event_ + 100000000 * ++local().event_);
}
"""


@both_ways
@both_makes
@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("visibility", ["default", "hidden"])
def test_inline_variables_are_initialized_and_destroyed_once(
    session: tol.Session,
    compile: Compiler,
    trace: Trace,
    together: bool,
    toolchain: Toolchain,
    level: str,
    visibility: str,
) -> None:
    source = INITIALIZED.replace("VISIBLE", f'__attribute__((visibility("{visibility}")))')
    # Without GNU_UNIQUE, which keeps a dlopened library loaded for good.
    flags = [level, "-fPIC"] + ["-fno-gnu-unique"] * (toolchain.name == "gcc")
    names = ["f1", "f2", "f3"]
    objects = [compile.cxx(source, *flags, f"-DNAME={name}", toolchain=toolchain) for name in names]
    outcomes = []
    for load_all in (lambda: load(session, together, *objects), lambda: compile.dlopen(*objects)):
        loaded = load_all()
        at_load = sorted(trace.take())
        results = called(loaded, names)
        at_call = trace.take()
        if isinstance(loaded, tol.Dylib):
            loaded.close()
        del loaded
        gc.collect()
        outcomes.append((at_load, results, at_call, sorted(trace.take())))
    ours, dlopened = outcomes
    assert ours == dlopened
    results = [4131070605 + n * 101010101 for n in range(3)]
    assert ours == ([4, 5, 6, 30], results, [40], [-43, -33, -9, -8, -7])


FLAGS = [
    "-O0",
    "-O2 -g",
    "-O2 -g -gz -gsplit-dwarf",
    "-O2 -fno-asynchronous-unwind-tables",
    "-O2 -fno-inline -ffunction-sections -fdata-sections",
    "-O2 -fno-inline -fpatchable-function-entry=2",
    f"-O2 -fno-inline {PROCESSOR.branch_protection}",
    "-O2 -fno-inline -mcmodel=large",
    "-O2 -fno-inline -fvisibility-inlines-hidden",
    "-O2 -fno-inline -fno-plt -fno-semantic-interposition",
]
CXX = """
#include "safe_call.h"
#include <stdexcept>
#include <string>
inline int64_t count() { static int64_t calls = 0; return ++calls; }
struct Base {
  virtual ~Base() = default;
  virtual int64_t get() const { return 1 + count(); }
};
struct Virtual : virtual Base {
  explicit Virtual(int64_t n) : n_(n + count()) {}
  ~Virtual() override { count(); }
  int64_t get() const override { return n_; }
  int64_t n_;
};
template <typename T> struct Deep : Virtual {
  explicit Deep(T n) : Virtual(n), text(40, 'x') {}
  ~Deep() override { if (text.size() == 1) throw 1; }
  std::string text;
};
template <typename T> T checked(T n) {
  if (n > 2) throw std::out_of_range("checked");
  return n;
}
template <typename T> T caught(T n) {
  try {
    Deep<T> object(n);
    return checked<T>(object.get());
  } catch (const std::out_of_range& error) {
    return 100 + std::string(error.what()).size();
  } catch (...) {
    return -1;
  }
}
EXPORT(NAME) {
  const int64_t n = INT(0);
  Virtual object(NUMBER);
  const Base& base = object;
  const bool is_deep = dynamic_cast<const Deep<int64_t>*>(&base) != nullptr;
  RETURN(((caught<int64_t>(n) * 1000 + caught<int64_t>(n + 5)) * 1000 + base.get()) * 10 + is_deep);
}
"""


def cxx(compile: Compiler, number: int, flags: str, toolchain: Toolchain) -> Path:
    named = (f"-DNAME=f{number}", f"-DNUMBER={number}")
    unique = ("-fno-gnu-unique",) if toolchain.name == "gcc" else ()
    return compile.cxx(CXX, "-fPIC", *flags.split(), *unique, *named, toolchain=toolchain)


@both_ways
@both_makes
@pytest.mark.parametrize("flags", FLAGS)
def test_whatever_compilers_put_into_groups(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain, flags: str
) -> None:
    objects = [cxx(compile, number, flags, toolchain) for number in (1, 2)]
    compared(session, compile, together, objects, ["f1", "f2", "f1"], 0)


MIXES = list(
    itertools.permutations([(make, level) for make in TOOLCHAINS for level in ("-O0", "-O2")], 2)
)


@both_ways
@pytest.mark.parametrize(
    "mix", MIXES, ids=lambda mix: " then ".join(f"{make.name} {level}" for make, level in mix)
)
def test_groups_of_constructors_that_differ(
    session: tol.Session,
    compile: Compiler,
    together: bool,
    mix: tuple[tuple[Toolchain, str], ...],
) -> None:
    """GCC has the variants of a constructor in one group (C5, D5), clang partly in one each."""
    objects = [
        cxx(compile, number, f"{level} -fno-inline", make)
        for number, (make, level) in enumerate(mix, 1)
    ]
    compared(session, compile, together, objects, ["f1", "f2", "f1"], 0)


THROUGH_ANOTHER_LOAD = """
#include "safe_call.h"
#include <stdexcept>
struct Count { int64_t* n; ~Count() { ++*n; } };
template <int N> __attribute__((noinline)) void thrower(int64_t n, int64_t* destroyed) {
  Count count{destroyed};
  if (n == 0) throw std::runtime_error("at the bottom");
  thrower<(N + 1) % 4>(n - 1, destroyed);
}
template <int N> __attribute__((noinline)) int64_t catcher(int64_t n) {
  int64_t destroyed = 0;
  try { thrower<N>(n, &destroyed); } catch (const std::exception&) { return destroyed; }
  return -1;
}
EXPORT(NAME) { RETURN(catcher<FIRST>(INT(0)) * 100 + catcher<3>(INT(0) + 1)); }
"""


@both_ways
@both_makes
def test_exceptions_through_functions_of_dropped_and_kept_groups(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain
) -> None:
    names = ["f0", "f1", "f2", "f3"]
    objects = [
        compile.cxx(
            THROUGH_ANOTHER_LOAD,
            *("-O1", "-fPIC", f"-DNAME={name}", f"-DFIRST={number}"),
            toolchain=toolchain,
        )
        for number, name in enumerate(names)
    ]
    assert compared(session, compile, together, objects, names, 9) == [1011] * 4


# .gnu.linkonce.*, what there was before groups.

ONCE = r"""
#include "processor.h"
#include "safe_call.h"
__asm__(".section CODE\n"
        ".globl f\n .type f, @function\n"
        "f:\n" TAKE(v) PLUS_VALUE(NUMBER) "ret\n"
        ".section DATA\n"
        ".globl v\n .hidden v\n v: .quad 10 * NUMBER\n"
        ".text\n");
int64_t f(void);
EXPORT(runNUMBER) { RETURN(f()); }
"""
ONCE_CODE = r".gnu.linkonce.t.f, \"ax\", @progbits"
ONCE_DATA = r".gnu.linkonce.d.v, \"aw\", @progbits"
GROUP_CODE = r".text.f, \"axG\", @progbits, f, comdat"
GROUP_DATA = r".data.v, \"awG\", @progbits, v, comdat"


def once(compile: Compiler, number: int, code: str, data: str, toolchain: Toolchain = GCC) -> Path:
    source = ONCE.replace("CODE", code).replace("DATA", data).replace("NUMBER", str(number))
    return compile(source, toolchain=toolchain)


@both_ways
@both_makes
def test_linkonce_sections_count_once(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain
) -> None:
    objects = [once(compile, n, ONCE_CODE, ONCE_DATA, toolchain) for n in (1, 2, 3)]
    names = ["run1", "run2", "run3"]
    assert compared(session, compile, together, objects, names) == [11] * 3


@both_makes
@pytest.mark.parametrize("order", ["group first", "group last"])
def test_a_linkonce_section_and_a_group_of_one_section_are_the_same(
    session: tol.Session, compile: Compiler, order: str, toolchain: Toolchain
) -> None:
    codes = [(GROUP_CODE, GROUP_DATA), (ONCE_CODE, ONCE_DATA), (GROUP_CODE, GROUP_DATA)]
    if order == "group last":
        codes = codes[1:]
    objects = [once(compile, n, *code, toolchain) for n, code in enumerate(codes, 1)]
    names = [f"run{n}" for n in range(1, len(codes) + 1)]
    assert compared(session, compile, True, objects, names) == [11] * len(codes)


@both_makes
def test_a_linkonce_section_gives_way_to_a_group_that_is_loaded(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    objects = [
        once(compile, 1, GROUP_CODE, GROUP_DATA, toolchain),
        once(compile, 2, ONCE_CODE, ONCE_DATA, toolchain),
    ]
    assert compared(session, compile, False, objects, ["run1", "run2"]) == [11] * 2


# Groups as no compiler writes them.


def group(
    *words: int, name: str = ".group", signature: int = 3, link: str | int = ".symtab"
) -> Section:
    """A group of its flags and the numbers of its members."""
    content = struct.pack(f"<{len(words)}I", *words)
    return Section(name, SHT_GROUP, 0, content, link, signature, 4, 4)


def grouped(*groups: Section) -> bytes:
    """An object whose last loaded section defines `key`, of 8 bytes; the groups come before it."""
    member = Section(".member", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE | SHF_GROUP, bytes(8))
    key = symbol(13, 3 + len(groups), size=8, binding=STB_GLOBAL)
    return function(*groups, member, symbols=key, names=b"key\0")


@pytest.mark.parametrize("flags", [0, GRP_COMDAT], ids=["plain", "COMDAT"])
@pytest.mark.parametrize("signature", [1, 2, 3], ids=["a section", "a function", "the data"])
def test_a_group_that_is_well_formed(session: tol.Session, flags: int, signature: int) -> None:
    dylib = session.load(grouped(group(flags, 4, signature=signature)))
    assert dylib["f"]() is None
    assert dylib.lookup("key")


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param((group(GRP_COMDAT, 99),), id="a member that does not exist"),
        pytest.param((group(GRP_COMDAT, 4, 0xFFFFFFFF),), id="a member of number -1"),
        pytest.param((group(GRP_COMDAT, 4, 0),), id="a member of number 0"),
        pytest.param((group(0, 99),), id="a member of a plain group that does not exist"),
        pytest.param((group(GRP_COMDAT, 4, signature=4),), id="a key that does not exist"),
        pytest.param((group(GRP_COMDAT, 4, signature=0xFFFFFFFF),), id="a key of number -1"),
        pytest.param((group(GRP_COMDAT, 4, link=0),), id="no symbol table"),
        pytest.param((group(GRP_COMDAT, 4, link=".data"),), id="a symbol table that is none"),
        pytest.param((group(GRP_COMDAT, 4, link=99),), id="a symbol table that does not exist"),
        pytest.param((group(0x10000000, 4),), id="an unknown flag"),
        pytest.param((group(GRP_COMDAT | 0x10000000, 4),), id="COMDAT and an unknown flag"),
        pytest.param((group(GRP_COMDAT | 2, 4),), id="COMDAT and a reserved flag"),
        pytest.param((group(),), id="no flags"),
        pytest.param(
            (Section(".group", SHT_GROUP, 0, b"\1\0\0\0\4\0", ".symtab", 3, 4, 4),),
            id="a size that is no multiple of 4",
        ),
        pytest.param(
            (Section(".group", SHT_GROUP, 0, b"", ".symtab", 3, 4, 4, size=1 << 40),),
            id="content beyond the file's end",
        ),
        pytest.param(
            (group(GRP_COMDAT, 5), group(GRP_COMDAT, 5, name=".group.2", signature=2)),
            id="a section in two groups",
        ),
        pytest.param((group(0, 5), group(0, 5, name=".group.2")), id="in two plain groups"),
    ],
)
def test_a_malformed_group(refusal: Refusal, add_object: Path, groups: tuple[Section, ...]) -> None:
    content = grouped(*groups)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.session.load(content)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.session.load([add_object, content])
    dylib = refusal.session.load(grouped(group(GRP_COMDAT, 4)))
    dylib.close()
