# SPDX-License-Identifier: Apache-2.0
"""What a linker adds to the objects: the stack's flags, `_init` and `_fini`, its own symbols."""

from __future__ import annotations

import ctypes
import gc
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain
from conftest import Trace
from processors import PROCESSOR, X86_64, only_on
from refusal import Refusal

pytestmark = pytest.mark.matrix

both_makes = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)

# Executable stacks: the linked library makes all stacks of the process executable.

NESTED = """
#include "safe_call.h"
static int64_t apply(int64_t (*f)(int64_t), int64_t n) { return f(n); }
__attribute__((noinline)) int64_t outer(int64_t n) {
  int64_t inner(int64_t m) { return m + n; }
#ifdef TRAMPOLINE
  int64_t (*volatile function)(int64_t) = inner;
  return apply(function, 1);
#else
  return inner(1);
#endif
}
EXPORT(nested) { RETURN(outer(INT(0))); }
EXPORT(plain) { RETURN(7); }
"""
# What asks for it, and a way out.
ADVICE = r"(?i)executable stack(.|\n)*(noexecstack|nested function)"
NOTE = ".note.GNU-stack"


def nested(compile: Compiler, level: str = "-O2") -> Path:
    return compile(NESTED, level, "-fPIC", "-DTRAMPOLINE", name="nested")


def plain(compile: Compiler, name: str) -> Path:
    return compile(f'#include "safe_call.h"\nEXPORT({name}) {{ RETURN(5); }}\n', name=name)


def without_note(path: Path, made: Path) -> Path:
    subprocess.run(["objcopy", f"--remove-section={NOTE}", path, made], check=True)
    headers = subprocess.run(["readelf", "-SW", made], capture_output=True, text=True, check=True)
    assert NOTE not in headers.stdout
    return made


def stack_of(library: Path) -> str:
    """Return the flags of a library's stack."""
    headers = subprocess.run(
        ["readelf", "-lW", library], capture_output=True, text=True, check=True
    )
    (line,) = [line for line in headers.stdout.splitlines() if "GNU_STACK" in line]
    return "".join(line.split()[6:-1])


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_a_nested_function_whose_address_is_taken(
    refusal: Refusal, compile: Compiler, level: str
) -> None:
    path = nested(compile, level)
    assert stack_of(compile.link(path, quiet=True)) == "RWE"
    for load in refusal.entry_points():
        with refusal.of(tol.ObjectFormatError, path) as caught:
            load(path)
        assert caught.match(ADVICE)
        with refusal.of(tol.ObjectFormatError, "<bytes>") as caught:
            load(path.read_bytes())
        assert caught.match(ADVICE)


def test_a_nested_function_whose_address_is_not_taken(
    session: tol.Session, compile: Compiler
) -> None:
    path = compile(NESTED)
    assert session.load(path)["nested"](5) == compile.dlopen(path).nested(5) == 6


@both_makes
@pytest.mark.parametrize("kind", ["progbits", "nobits", "note"])
def test_a_note_that_asks_for_an_executable_stack(
    refusal: Refusal, compile: Compiler, toolchain: Toolchain, kind: str
) -> None:
    source = f'.section {NOTE}, "x", @{kind}\n.text\n.globl f\nf: ret\n'
    path = compile(source, "-Wa,--no-warn", language="assembler", toolchain=toolchain)
    assert stack_of(compile.link(path, quiet=True)) == "RWE"
    with refusal.of(tol.ObjectFormatError, path) as caught:
        refusal.session.load(path)
    assert caught.match(ADVICE)


@pytest.mark.parametrize("position", range(3))
def test_one_of_several_objects_asks_for_an_executable_stack(
    refusal: Refusal, compile: Compiler, position: int
) -> None:
    bad = nested(compile)
    good = [plain(compile, name) for name in ("first", "second")]
    objects: list[Path | bytes] = [*good]
    objects.insert(position, bad)
    with refusal.of(tol.ObjectFormatError, bad) as caught:
        refusal.session.load(objects)
    assert caught.match(ADVICE)
    for path in good:
        assert str(path) not in str(caught.value)
    objects[position] = bad.read_bytes()
    with refusal.of(tol.ObjectFormatError, "<bytes>") as caught:
        refusal.dylib.load(objects)
    assert caught.match(ADVICE)
    assert sorted(refusal.session.load(good).functions) == ["first", "second"]


def test_a_member_of_an_archive_asks_for_an_executable_stack(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    archive, bad = tmp_path / "some.a", nested(compile)
    subprocess.run(["ar", "rc", archive, bad, plain(compile, "first")], check=True)
    needs = compile(
        '#include "safe_call.h"\nint64_t outer(int64_t n);\nEXPORT(run) { RETURN(outer(1)); }\n'
    )
    objects: list[Path] | Path
    for objects, whole in (([needs, archive], False), (archive, False), (archive, True)):
        with refusal.of(tol.ObjectFormatError, archive, bad.name) as caught:
            refusal.session.load(objects, whole_archive=whole)
        assert caught.match(ADVICE)
    # A member that nobody needs asks for nothing.
    assert refusal.session.load([plain(compile, "second"), archive])["second"]() == 5


@pytest.mark.parametrize("beside", [True, False], ids=["beside another", "alone"])
def test_an_object_without_a_note_of_its_stack(
    session: tol.Session, compile: Compiler, add_object: Path, beside: bool, tmp_path: Path
) -> None:
    """The linker takes it to ask for an executable stack; most such objects come from assembler."""
    path = without_note(plain(compile, "first"), tmp_path / "without.o")
    dylib = session.load([add_object, path] if beside else path)
    assert dylib["first"]() == 5
    assert session.load(path.read_bytes())["first"]() == 5


def test_an_object_whose_note_was_removed(
    session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    path = without_note(nested(compile), tmp_path / "without.o")
    assert session.load(path)["plain"]() == 7


# .init and .fini: code that becomes a part of the library's `_init` and `_fini`.

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


# Symbols that a linker defines: those of the load, never those of the program's executable.

SYMBOLS = r"""
#include "safe_call.h"
extern char SYMBOL[] VISIBLE;
int64_t zeros[4];
int64_t data[4] = {1, 2, 3, 4};
static char* volatile pointer = SYMBOL;
EXPORT(NAME_in_code) { RETURN(SYMBOL); }
EXPORT(NAME_in_data) { RETURN(pointer); }
EXPORT(NAME_code) { RETURN(__tvm_ffi_NAME_code); }
EXPORT(NAME_data) { RETURN(data); }
EXPORT(NAME_zeros) { RETURN(zeros); }
"""
VISIBLE = {"default": "", "hidden": '__attribute__((visibility("hidden")))'}


class Places(NamedTuple):
    """Where a symbol is, and of what lies in its load: ends, where it is data."""

    at: int
    code: int
    data: int
    zeros: int
    zeros_start: int


# Parts of a library's file, and of what every library is linked with.
OF_THE_FILE = ["_init", "_fini", "__ehdr_start", "_DYNAMIC"]
# What holds for each.
LINKER_DEFINED: dict[str, Callable[[Places], bool]] = {
    **dict.fromkeys(["etext", "_etext", "__etext"], lambda places: places.at > places.code),
    **dict.fromkeys(["edata", "_edata"], lambda places: places.at >= places.data),
    **dict.fromkeys(["end", "_end"], lambda places: 0 <= places.at - places.zeros < 1 << 24),
    "__bss_start": lambda places: places.at <= places.zeros_start,
    **dict.fromkeys(OF_THE_FILE, lambda places: True),
}
all_symbols = pytest.mark.parametrize("symbol", LINKER_DEFINED)
all_visibilities = pytest.mark.parametrize("visible", VISIBLE)


def of_the_executable(symbol: str) -> int | None:
    """Where the process has the symbol, for whoever lacks it."""
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(None), symbol))
    except ValueError:
        return None


def uses_symbol(
    compile: Compiler,
    symbol: str,
    visible: str,
    toolchain: Toolchain,
    name: str = "f",
    attribute: str = "",
) -> Path:
    source = SYMBOLS.replace("SYMBOL", symbol).replace("VISIBLE", VISIBLE[visible] + attribute)
    if name != "f":  # of another object of the dylib
        source = source.replace("int64_t zeros", "static int64_t zeros")
        source = source.replace("int64_t data", "static int64_t data")
    return compile(source.replace("NAME", name), toolchain=toolchain, name=name)


def places(of: tol.Dylib | tvm_ffi.Module, name: str = "f") -> Places:
    def at(what: str) -> int:
        result: int = of.get_function(f"{name}_{what}")()
        return result

    assert at("in_code") == at("in_data")
    zeros = at("zeros")
    return Places(at("in_code"), at("code"), at("data") + 32, zeros + 32, zeros)


def assert_own(symbol: str, places: Places) -> None:
    assert places.at != of_the_executable(symbol)
    assert all(abs(places.at - other) < 1 << 31 for other in places)
    assert LINKER_DEFINED[symbol](places)


def load_unless_refused(
    session: tol.Session, objects: Path | Sequence[Path], symbol: str
) -> tol.Dylib | None:
    """Load what needs the symbol. That may be refused, with an error that names it."""
    try:
        return session.load(objects)
    except tol.LinkError as error:
        if symbol not in str(error):
            raise
        return None


@both_makes
@all_symbols
@all_visibilities
def test_symbols_that_a_linker_defines(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, symbol: str, visible: str
) -> None:
    path = uses_symbol(compile, symbol, visible, toolchain)
    dlopened = places(compile.dlopen(path))
    # Those that the executable exports take the place of a library's that are not hidden.
    if of_the_executable(symbol) is None or visible == "hidden":
        assert_own(symbol, dlopened)
    dylib = load_unless_refused(session, path, symbol)
    if dylib is not None:
        assert_own(symbol, places(dylib))


@both_makes
@all_symbols
@all_visibilities
def test_symbols_that_a_linker_defines_are_each_loads_own(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, symbol: str, visible: str
) -> None:
    first = uses_symbol(compile, symbol, visible, toolchain)
    second = uses_symbol(compile, symbol, visible, toolchain, name="g")
    base = load_unless_refused(session, first, symbol)
    if base is None:
        return
    base.load(second)
    app = session.load(first, link_order=[base])
    found = [places(base), places(base, "g"), places(app)]
    for each in found:
        assert_own(symbol, each)
    if symbol not in OF_THE_FILE:
        assert len({each.at for each in found}) == 3


@both_makes
@all_symbols
@all_visibilities
def test_weak_references_to_symbols_that_a_linker_defines(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, symbol: str, visible: str
) -> None:
    weak = " __attribute__((weak))"
    path = uses_symbol(compile, symbol, visible, toolchain, attribute=weak)
    found = places(session.load(path))
    if found.at != 0:
        assert_own(symbol, found)


@both_makes
def test_symbols_that_a_linker_defines_around_those_of_several_objects(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    source = """
    #include "safe_call.h"
    #define HIDDEN __attribute__((visibility("hidden")))
    extern char etext[] HIDDEN, edata[] HIDDEN, end[] HIDDEN, __bss_start[] HIDDEN;
    extern int64_t zeros2[100], data2[100];
    int64_t code2(void);
    int64_t zeros1[100], data1[100] = {1};
    static int64_t between(char* low, void* at, int64_t size, char* high) {
      return low <= (char*)at && (char*)at + size <= high;
    }
    EXPORT(bits) {
      int64_t bits = ((char*)code2 < etext) + 2 * ((char*)__tvm_ffi_bits < etext);
      bits += 4 * between(__bss_start, zeros1, sizeof zeros1, end);
      bits += 8 * between(__bss_start, zeros2, sizeof zeros2, end);
      bits += 16 * between(0, data1, sizeof data1, edata);
      bits += 32 * between(0, data2, sizeof data2, edata);
      RETURN(bits + 64 * (edata <= end) + 128 * (__bss_start <= end));
    }
    """
    other = """
    #include <stdint.h>
    int64_t zeros2[100], data2[100] = {2};
    int64_t code2(void) { return data2[0]; }
    """
    objects = [compile(text, toolchain=toolchain) for text in (source, other)]
    for given in (objects, objects[::-1]):
        dylib = load_unless_refused(session, given, "end")
        assert compile.dlopen(*given).bits() == 255
        assert dylib is None or dylib["bits"]() == 255


@both_makes
@only_on(X86_64, "elsewhere compilers never ask for the distance to the table")
def test_the_global_offset_table(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    source = """
    #include "safe_call.h"
    int64_t number __attribute__((visibility("hidden"))) = 5;
    EXPORT(at) {
      char* table;
      __asm__("leaq _GLOBAL_OFFSET_TABLE_(%%rip), %0" : "=r"(table));
      RETURN(table - (char*)&number);
    }
    EXPORT(number) {
      char* table;
      int64_t offset;
      __asm__("leaq _GLOBAL_OFFSET_TABLE_(%%rip), %0" : "=r"(table));
      __asm__("movabsq $number@GOTOFF, %0" : "=r"(offset));
      RETURN(*(int64_t*)(table + offset));
    }
    """
    path = compile(source, toolchain=toolchain)
    dylib, module = session.load(path), compile.dlopen(path)
    assert dylib["number"]() == module.number() == 5
    assert max(abs(dylib["at"]()), abs(module.at())) < 1 << 31


OWN = """
#include "safe_call.h"
int64_t SYMBOL(void);
EXPORT(use) { RETURN(SYMBOL()); }
EXPORT(at) { RETURN(SYMBOL); }
"""
# Those that a linker defines only where no object does.
PROVIDED = ["end", "etext", "_etext", "__etext", "edata", "__ehdr_start"]


@both_makes
@pytest.mark.parametrize("symbol", PROVIDED)
@pytest.mark.parametrize(
    "order", ["one object", "user first", "user last", "archive", "an earlier load"]
)
def test_an_own_definition_of_a_symbol_that_a_linker_would_define(
    session: tol.Session,
    compile: Compiler,
    toolchain: Toolchain,
    symbol: str,
    order: str,
    tmp_path: Path,
) -> None:
    definition = f"\n#include <stdint.h>\nint64_t {symbol}(void) {{ return 77; }}\n"
    use = OWN.replace("SYMBOL", symbol)
    user, definer = compile(use, toolchain=toolchain), compile(definition, toolchain=toolchain)
    archive = tmp_path / "some.a"
    subprocess.run(["ar", "rc", archive, definer], check=True)
    objects = {
        "one object": [compile(use + definition, toolchain=toolchain)],
        "user first": [user, definer],
        "user last": [definer, user],
        "archive": [user, archive],
        "an earlier load": [definer, user],
    }[order]
    assert compile.dlopen(*objects).use() == 77
    if order == "an earlier load":
        dylib = session.load(definer)
        dylib.load(user)
    else:
        dylib = session.load(objects)
    assert dylib["use"]() == 77
    assert dylib["at"]() == dylib.lookup(symbol)


@both_makes
def test_own_variables_of_such_names(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    names = ["end", "etext", "edata"]
    definer = compile(
        "#include <stdint.h>\nint64_t end = 1, etext;\nconst int64_t edata = 300;\n"
        "void set(void) { etext = 20; }\n",
        toolchain=toolchain,
    )
    user = compile(
        '#include "safe_call.h"\nextern int64_t end, etext, edata;\nvoid set(void);\n'
        "EXPORT(sum) { set(); RETURN(end + etext + edata); }\n",
        toolchain=toolchain,
    )
    assert session.load([user, definer])["sum"]() == compile.dlopen(user, definer).sum() == 321
    later = session.load(definer)
    later.load(user)
    assert later["sum"]() == 321
    assert all(later.lookup(name) != of_the_executable(name) for name in names)


@both_makes
@only_on(X86_64, "elsewhere zero is as far away for compilers as for the loader")
def test_a_weak_symbol_that_is_missing_where_code_takes_it_for_one_near_by(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    """Zig asks so whether there is a dynamic section."""
    source = """
    #include "safe_call.h"
    __asm__(".weak _DYNAMIC\\n.weak nowhere");
    _Thread_local int64_t last;  // otherwise the load may lie so low that zero is near
    EXPORT(address) { int64_t at; __asm__("lea SYMBOL(%%rip), %0" : "=r"(at)); RETURN(at); }
    EXPORT(high) {
      register int64_t at __asm__("r13");
      __asm__("lea SYMBOL(%%rip), %0" : "=r"(at));
      RETURN(at);
    }
    EXPORT(add) { RETURN(last += INT(0) + INT(1)); }
    """
    for symbol in ("_DYNAMIC", "nowhere"):
        path = compile(source.replace("SYMBOL", symbol), toolchain=toolchain)
        dylib = session.load(path)
        assert (dylib["address"](), dylib["high"](), dylib["add"](3, 4)) == (0, 0, 7)


@both_makes
def test_the_header_tells_of_no_segments(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    """Those who walk through them, as clang's runtime for profiles does, find the end at once."""
    source = """
    #include "safe_call.h"
    #include <elf.h>
    extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
    EXPORT(at) { RETURN(&__ehdr_start); }
    EXPORT(magic) { RETURN(*(const int64_t*)__ehdr_start.e_ident); }
    EXPORT(machine) { RETURN(__ehdr_start.e_machine * 16 + __ehdr_start.e_type); }
    EXPORT(segments) { RETURN(__ehdr_start.e_phnum); }
    """
    path = compile(source, toolchain=toolchain)
    dylib, second, module = session.load(path), session.load(path), compile.dlopen(path)
    for name in ("magic", "machine"):
        assert dylib[name]() == module.get_function(name)()
    assert dylib["segments"]() == 0
    assert dylib["at"]() != second["at"]()
