# SPDX-License-Identifier: Apache-2.0
"""Members of section groups: constructors, entries of arrays, anything that compilers put there."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain, both_makes
from conftest import Trace
from processors import PROCESSOR
from section_groups import both_ways, called, compared, load

pytestmark = pytest.mark.matrix

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
