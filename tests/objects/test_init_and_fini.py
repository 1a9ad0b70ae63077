# SPDX-License-Identifier: Apache-2.0
"""`.init` and `.fini`: code that becomes a part of the library's `_init` and `_fini`."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain, both_makes
from conftest import Trace
from processors import PROCESSOR

pytestmark = pytest.mark.matrix

INIT = r"""
#include "safe_call.h"
#include "trace.h"
#define AT(event) BASE + event
__attribute__((LINKAGE)) void in_init(void) { trace(AT(1)); }
__attribute__((LINKAGE)) void in_init_too(void) { trace(AT(2)); }
__attribute__((LINKAGE)) void in_fini(void) { trace(AT(3)); }
__attribute__((LINKAGE)) void in_fini_too(void) { trace(AT(4)); }
__attribute__((constructor)) static void constructor(void) { trace(AT(5)); }
__attribute__((constructor(101))) static void first_constructor(void) { trace(AT(6)); }
__attribute__((destructor)) static void destructor(void) { trace(AT(7)); }
__attribute__((destructor(101))) static void last_destructor(void) { trace(AT(8)); }
static void at_exit(void) { trace(AT(9)); }
__attribute__((constructor)) static void registers(void) { atexit(at_exit); }
__asm__(".section .init, \"ax\", %progbits\n CALL in_initPLT\n .text\n");
__asm__(".section .fini, \"ax\", %progbits\n CALL in_finiPLT\n .text\n");
__asm__(".section .init, \"ax\", %progbits\n CALL in_init_tooPLT\n .text\n");
__asm__(".section .fini, \"ax\", %progbits\n CALL in_fini_tooPLT\n .text\n");
EXPORT(NAME) { RETURN(INT(0) + BASE); }
"""
LINKAGES = {
    "hidden": ('visibility("hidden"), used', ""),
    "default": ("used", PROCESSOR.by_table),
}


def init(
    compile: Compiler, base: int, toolchain: Toolchain, linkage: str = "hidden", *flags: str
) -> Path:
    """An object that traces base + 1, base + 2, …, and whose function adds base."""
    attributes, plt = LINKAGES[linkage]
    source = INIT.replace("LINKAGE", attributes).replace("PLT", plt)
    source = source.replace("CALL", PROCESSOR.call)
    for name in ("in_init_too", "in_init", "in_fini_too", "in_fini"):
        source = source.replace(name + "(", f"{name}{base}(").replace(
            f"{PROCESSOR.call} {name}{plt}\\n", f"{PROCESSOR.call} {name}{base}{plt}\\n"
        )
    flags = flags or ("-O2", "-fPIC")
    return compile(source, *flags, f"-DBASE={base}", f"-DNAME=f{base}", toolchain=toolchain)


Events = tuple[list[int], list[int]]


def events(trace: Trace, load: Callable[[], Callable[[int], object]]) -> Events:
    """Return what is traced from load to call, and at unload."""
    assert trace.take() == []
    function = load()
    function(1)
    at_load = trace.take()
    del function
    gc.collect()
    return at_load, trace.take()


def as_dlopened(
    session: tol.Session, compile: Compiler, trace: Trace, objects: Sequence[Path], name: str
) -> Events:
    """Return what is traced, which is what the linked library traces."""
    ours = events(trace, lambda: session.load(objects)[name])
    assert ours == events(trace, lambda: compile.dlopen(*objects).get_function(name))
    return ours


@both_makes
@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize(
    "flags", ["-O0 -fPIC", "-O2 -fPIC", f"-O2 -fPIC {PROCESSOR.branch_protection}"]
)
def test_code_in_init_and_fini(
    session: tol.Session,
    compile: Compiler,
    trace: Trace,
    toolchain: Toolchain,
    linkage: str,
    flags: str,
) -> None:
    path = init(compile, 0, toolchain, linkage, *flags.split())
    assert as_dlopened(session, compile, trace, [path], "f0") == ([1, 2, 6, 5], [7, 9, 8, 3, 4])


@both_makes
def test_code_in_init_and_fini_of_several_objects(
    session: tol.Session, compile: Compiler, trace: Trace, add_object: Path, toolchain: Toolchain
) -> None:
    objects = [init(compile, base, toolchain) for base in (10, 20, 30)]
    objects.insert(1, add_object)
    for given in (objects, objects[::-1]):
        at_load, at_unload = as_dlopened(session, compile, trace, given, "f20")
        order = [10, 20, 30] if given is objects else [30, 20, 10]
        assert at_load[:6] == [base + event for base in order for event in (1, 2)]
        assert at_unload[-6:] == [base + event for base in order for event in (3, 4)]


def test_code_in_init_and_fini_of_several_loads(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    """Each load has its own; they end in reverse order, each as a whole."""
    dylib = session.create_dylib()
    for base in (0, 10):
        dylib.load(init(compile, base, TOOLCHAINS[-1]))
        assert trace.take() == [base + event for event in (1, 2, 6, 5)]
    dylib.close()
    assert trace.take() == [base + event for base in (10, 0) for event in (7, 9, 8, 3, 4)]


def test_code_in_init_of_every_kind_of_input(
    session: tol.Session, compile: Compiler, trace: Trace, tmp_path: Path
) -> None:
    objects = [init(compile, base, TOOLCHAINS[0]) for base in (0, 10)]
    linked, archive = tmp_path / "linked.o", tmp_path / "some.a"
    subprocess.run(["ld", "-r", *objects, "-o", linked], check=True)
    subprocess.run(["ar", "rc", archive, *objects], check=True)
    expected = as_dlopened(session, compile, trace, objects, "f10")
    assert expected[0][:4] == [1, 2, 11, 12]
    assert expected[1][-4:] == [3, 4, 13, 14]
    assert as_dlopened(session, compile, trace, [linked], "f10") == expected
    contents = [path.read_bytes() for path in objects]
    assert events(trace, lambda: session.load(contents)["f10"]) == expected
    assert events(trace, lambda: session.load(archive)["f10"]) == expected


@both_makes
def test_code_in_init_sees_what_a_function_sees(
    session: tol.Session, compile: Compiler, trace: Trace, toolchain: Toolchain
) -> None:
    """The stack is aligned, and the arguments are those of a constructor."""
    source = r"""
    #include "safe_call.h"
    #include "trace.h"
    int64_t number = 1;
    static _Thread_local int64_t of_the_thread = 3;
    __attribute__((used)) static void seen(int argc, char** argv, char** envp) {
      _Alignas(16) volatile char aligned[16];
      trace(argc);
      trace(argv != 0 && argv[argc] == 0);
      trace(envp != 0 && envp == argv + argc + 1);
      trace((int64_t)aligned % 16);
      trace((int64_t)__builtin_frame_address(0) % 16);
      number += ++of_the_thread;
    }
    #ifdef __x86_64__
    #define CALL "pushq %rdi\n pushq %rsi\n call seen\n popq %rsi\n popq %rdi\n jmp 1f\n ud2\n"
    #else
    #define CALL "stp x0, x1, [sp, #-16]!\n bl seen\n ldp x0, x1, [sp], #16\n b 1f\n brk #1\n"
    #endif
    __asm__(".section .init, \"ax\", %progbits\n" CALL "1: .text\n");
    EXPORT(number) { RETURN(number); }
    """
    path = compile(source, toolchain=toolchain)
    ours = session.load(path)["number"]()
    seen = trace.take()
    assert ours == compile.dlopen(path).number() == 5
    assert seen == trace.take()
    assert len(seen) == 5


@both_makes
def test_an_object_of_nothing_but_code_in_init(
    session: tol.Session, compile: Compiler, trace: Trace, add_object: Path, toolchain: Toolchain
) -> None:
    called = compile('#include "trace.h"\nvoid called(void) { trace(8); }\n', toolchain=toolchain)
    caller = compile(
        f'__asm__(".section .init, \\"ax\\", %progbits\\n {PROCESSOR.call} called\\n .text");\n',
        toolchain=toolchain,
    )

    def add(function: Callable[..., object]) -> Callable[[int], object]:
        return lambda n: function(n, n)

    objects = [caller, add_object, called]
    ours = events(trace, lambda: add(session.load(objects)["add"]))
    dlopened = events(trace, lambda: add(compile.dlopen(*objects).get_function("add")))
    assert ours == dlopened == ([8], [])


@both_makes
def test_sections_whose_names_only_begin_like_init(
    session: tol.Session, compile: Compiler, trace: Trace, toolchain: Toolchain
) -> None:
    source = """
    #include "safe_call.h"
    #include "trace.h"
    __attribute__((section(".init.text"), noinline)) int64_t one(void) { trace(1); return 10; }
    __attribute__((section(".fini.text"), noinline)) int64_t two(void) { trace(2); return 20; }
    __attribute__((section(".initial"), noinline)) int64_t three(void) { trace(3); return 30; }
    EXPORT(sum) { RETURN(one() + two() + three()); }
    """
    path = compile(source, "-O1", "-fPIC", toolchain=toolchain)
    dylib, module = session.load(path), compile.dlopen(path)
    assert trace.take() == []
    assert dylib["sum"]() == module.sum() == 60
    dylib.close()
    del module
    gc.collect()
    assert trace.take() == [1, 2, 3] * 2


def test_code_in_init_of_a_refused_load_has_not_run(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    missing = compile(
        '#include "safe_call.h"\nint64_t missing(void);\nEXPORT(f) { RETURN(missing()); }\n'
    )
    good = init(compile, 0, TOOLCHAINS[0])
    dylib = session.create_dylib()
    with pytest.raises(tol.UndefinedSymbolError, match="missing"):
        dylib.load([good, missing])
    assert trace.take() == []
    dylib.load(good)
    assert trace.take() == [1, 2, 6, 5]
