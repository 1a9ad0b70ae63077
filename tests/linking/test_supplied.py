# SPDX-License-Identifier: Apache-2.0
"""What a linker adds without being asked: libgcc, libm, what glibc keeps out of its library."""

from __future__ import annotations

import itertools
import math
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain
from conftest import RunScript, Trace
from folders import ROOT
from processors import PROCESSOR, X86_64, only_on

SUPPORT = ROOT / "native" / "support" / "support.c"

CALLS: dict[str, list[tuple[int, ...]]] = {
    "divide_wide": [(1, 2, 3), (-5, 7, 1 << 30), (12345, -1, -9)],
    "wide_and_floating": [(3, 1 << 50), (-7, 12)],
    "half": [(1, 2, 3), (-50, 10, 60000), (0, 1, -4)],
    "multiply_complex": [(1, 2), (-3, 4)],
    "bits": [(1,), (0xF0F0F0F0F0F0,), (-8,)],
    "quadruple": [(1, 2), (30, 7)],
    "power": [(3, 7), (-2, 5)],
    "mathematics": [(1,), (20,)],
    "cpu": [()],
    "status": [()],
    "other_convention": [(5,)],
    "checked": [(5, 7)],
}


def undefined(path: Path) -> set[str]:
    listing = subprocess.run(["nm", "-u", path], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"^ +[Uw] (\S+)$", listing, re.MULTILINE))


def results(functions: tol.Dylib | tvm_ffi.Module, names: list[str]) -> list[int]:
    return [functions[name](*arguments) for name in names for arguments in CALLS[name]]


FLAGS = {
    "-O0": ("-fPIC", "-O0"),
    "-O1": ("-fPIC", "-O1", "-ftrapv", "-DTRAPS"),
    "-O2": ("-fPIC", "-O2"),
    "-O3": ("-fPIC", "-O3"),
    "-Os": ("-fPIC", "-Os", "-fno-plt"),
}


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
@pytest.mark.parametrize("flags", FLAGS)
def test_operations_that_are_calls(
    session: tol.Session, compile: Compiler, flags: str, toolchain: Toolchain
) -> None:
    saved = PROCESSOR is X86_64 and flags == "-O2" and toolchain is GCC
    more = ("-mcall-ms2sysv-xlogues",) if saved else ()
    path = compile("supplied.c", *FLAGS[flags], *more, toolchain=toolchain)
    expected = {"__divti3", "__umodti3", "__mulsc3", "__powidf2", "__multf3"}
    traps = "-DTRAPS" in FLAGS[flags]
    if PROCESSOR is X86_64:
        expected |= {"__divxc3", "__extendhfsf2", "__cpu_model", "__cpu_indicator_init"}
        if toolchain is GCC:
            expected |= {"__popcountdi2"} | ({"__mulvdi3"} if traps else set())
            expected |= {"__sse_savms64_15", "__sse_resms64x_15"} if more else set()
    else:
        expected |= {"__divtc3"}
    assert expected - undefined(path) == set()
    dylib, dlopened = session.load(path), compile.dlopen(path)
    names = dylib.functions
    for_x86_64 = 1 + (toolchain is GCC) if PROCESSOR is X86_64 else 0
    assert len(names) == 9 + for_x86_64 + traps
    assert results(dylib, names) == results(dlopened, names)
    assert dylib["status"]() == 7
    assert PROCESSOR is not X86_64 or dylib["cpu"]() & 1 == 1


@only_on(X86_64, "its compilers ask for features of the processor by a variable")
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_each_load_has_its_own_copy(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    """The compilers refer to `__cpu_model` as to something near, so it has to be."""
    source = """
    #include "safe_call.h"
    extern struct { unsigned vendor, type, subtype, features[1]; } __cpu_model;
    static int64_t early;
    __attribute__((constructor)) static void init(void) { early = __cpu_model.vendor; }
    EXPORT(NAME) { RETURN(early && __builtin_cpu_supports("sse2") ? (int64_t)&__cpu_model : 0); }
    """
    first, second = (
        compile(source, "-O2", "-fPIC", f"-DNAME={name}", toolchain=toolchain)
        for name in ("first", "second")
    )
    dylib = session.load(first)
    before = session.stats()
    assert (before.objects, before.symbols) == (1, 1)
    dylib.load(second)
    other = session.load(second, link_order=[dylib])
    addresses = [dylib["first"](), dylib["second"](), other["second"]()]
    assert len(set(addresses)) == 3
    assert 0 not in addresses
    for symbol in ("__cpu_model", "__cpu_indicator_init"):
        with pytest.raises(tol.UndefinedSymbolError):
            dylib.lookup(symbol)


@only_on(X86_64, "its compilers ask for features of the processor by a variable")
def test_what_the_process_defines_does_not_replace_the_copy(
    compile: Compiler, run_script: RunScript
) -> None:
    library = compile.link(
        compile(
            """
            struct { unsigned vendor, type, subtype, features[1]; } __cpu_model;
            int __cpu_indicator_init(void) { return 0; }
            """
        )
    )
    user = """
    #include "safe_call.h"
    EXPORT(sse2) { __builtin_cpu_init(); RETURN(!!__builtin_cpu_supports("sse2")); }
    """
    path = compile(user)
    script = (
        "import ctypes, sys, tvm_ffi, tvm_ffi_object_loader\n"
        "ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)\n"
        "print([tvm_ffi.load_module(path).sse2() for path in sys.argv[2:]])\n"
    )
    assert run_script(script, library, path, compile.link(path)) == "[1, 1]\n"


def test_an_own_definition_is_taken(session: tol.Session, compile: Compiler, trace: Trace) -> None:
    source = """
    #include "safe_call.h"
    #include "trace.h"
    int __popcountdi2(long n) { return -1; }
    int atexit(void (*handler)(void)) { return -2; }
    int at_quick_exit(void (*handler)(void));
    static void handler(void) {}
    volatile long n = 255;
    EXPORT(own) { RETURN(1000 * __popcountdi2(n) + atexit(handler)); }
    EXPORT(count) { RETURN(__builtin_popcountl(n)); }
    EXPORT(quick) { RETURN(at_quick_exit(handler)); }
    """
    path = compile(source, "-O1", "-fPIC", "-fno-builtin", name="own")
    ours = session.load(path)
    linked = compile.link(path, flags=("-Wl,-Bsymbolic",))
    dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
    for name in ("own", "count", "quick"):
        assert ours[name]() == dlopened[name]()
    assert ours["own"]() == -1002
    assert ours.lookup("atexit")
    user = """
    #include "safe_call.h"
    int atexit(void (*handler)(void));
    EXPORT(use) { RETURN(atexit(0)); }
    """
    ours.load(compile(user))
    assert ours["use"]() == -2


HANDLERS = """
#include "safe_call.h"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#define HANDLER(name) static void name(void) { (void)!write(1, #name "\\n", sizeof(#name)); }
HANDLER(prepare) HANDLER(parent) HANDLER(child) HANDLER(quick)
EXPORT(register_fork) { RETURN(pthread_atfork(prepare, parent, child)); }
EXPORT(register_quick) { RETURN(at_quick_exit(quick)); }
"""
USE_HANDLERS = """
import ctypes, gc, os, sys
import tvm_ffi
import tvm_ffi_object_loader

def fork():
    print("fork", flush=True)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

kept, dropped = (tvm_ffi.load_module(path, keep_module_alive=False) for path in sys.argv[1:])
for module in (kept, dropped):
    assert module.register_fork() == module.register_quick() == 0
del module
fork()
del dropped
gc.collect()
fork()
ctypes.CDLL(None).quick_exit(0)
"""


def test_fork_and_quick_exit_handlers_belong_to_the_load(
    compile: Compiler, run_script: RunScript
) -> None:
    path = compile(HANDLERS)
    ours = run_script(USE_HANDLERS, path, path).split()
    dlopened = run_script(USE_HANDLERS, compile.link(path), compile.link(path)).split()
    first, second = (" ".join(ours).split("fork")[i].split() for i in (1, 2))
    assert sorted(first) == sorted(["prepare", "parent", "child"] * 2)
    assert sorted(second) == sorted(["prepare", "parent", "child", "quick"])
    assert sorted(ours) == sorted(dlopened)


def _file_of_gcc(name: str) -> Path:
    command = ["gcc", f"-print-file-name={name}"]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def libgcc() -> Path:
    return _file_of_gcc("libgcc.a")


def defined_by(archive: Path, without: str) -> list[str]:
    """Return the functions and variables of an archive, without members that match."""
    command = ["nm", "-A", "--defined-only", "--extern-only", str(archive)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^.*:(.*\.o[sS]?):\S+ [A-Z] (\S+)$", listing, re.MULTILINE)
    return sorted({symbol for member, symbol in found if not re.search(without, member)})


def test_everything_that_the_linkers_own_archives_define(
    session: tol.Session, compile: Compiler
) -> None:
    # Without those for split stacks, which need a linker that knows them, the state of decimals,
    # which is thread_local, and what the next tests are about.
    without = r"morestack|_main\.o|decimal_globals|"
    without += r"binarydecimal|_[sdt]d_to_[a-z]f|_[a-z]f_to_[sdt]d"
    names = defined_by(libgcc(), without)
    nonshared = _file_of_gcc("libc_nonshared.a")
    of_libc = defined_by(nonshared, " ")
    assert len(names) > (400 if PROCESSOR is X86_64 else 150)
    assert {"atexit", "at_quick_exit", "pthread_atfork"} <= set(of_libc)
    source = '#include "safe_call.h"\n' + "".join(
        f"extern char s{i}[] __asm__({symbol!r});\n".replace("'", '"')
        for i, symbol in enumerate(names + of_libc)
    )
    table = ", ".join(f"s{i}" for i in range(len(names + of_libc)))
    source += f"char* table[] = {{{table}}};\n"
    source += (
        "EXPORT(nulls) { int n = 0; for (int i = 0; i < INT(0); ++i) n += !table[i]; RETURN(n); }\n"
    )
    path = compile(source)
    count = len(names + of_libc)
    assert session.load(path)["nulls"](count) == compile.dlopen(path).nulls(count) == 0


DECIMAL = """
#include "safe_call.h"
EXPORT(decimal) {
  volatile _Decimal64 a = (_Decimal64)INT(0) / (_Decimal64)INT(1);
  volatile _Decimal128 b = (_Decimal128)a * 3 - 1;
  volatile _Decimal32 c = (_Decimal32)a;
  RETURN((int64_t)(a * 1000000) + (int64_t)(b * 1000) + (int64_t)(c * 100) + (a < (_Decimal64)b));
}
"""


@only_on(X86_64, "GCC has no decimal numbers for others before GCC 13")
def test_decimal_floating_point(session: tol.Session, compile: Compiler) -> None:
    path = compile(DECIMAL)
    assert "__bid_divdd3" in undefined(path)
    dylib = session.load(path)
    dlopened = compile.dlopen(path)
    for arguments in ((1, 3), (-22, 7)):
        assert dylib["decimal"](*arguments) == dlopened.decimal(*arguments)


CONVERT = """
#include "safe_call.h"
volatile _Decimal64 d = 1.25dd;
EXPORT(convert) { RETURN(1000 * (double)d); }
"""


@only_on(X86_64, "GCC has no decimal numbers for others before GCC 13")
def test_decimal_conversions_name_the_archive_that_has_them(
    session: tol.Session, compile: Compiler
) -> None:
    with pytest.raises(tol.UndefinedSymbolError, match=r"libgcc\.a") as caught:
        session.load(compile(CONVERT))
    assert caught.value.symbols == ("__bid_truncdddf",)


@only_on(X86_64, "GCC has no decimal numbers for others before GCC 13")
def test_decimal_conversions_of_libgcc(session: tol.Session, compile: Compiler) -> None:
    path = compile(CONVERT)
    dylib = session.load([path, libgcc()])
    assert dylib["convert"]() == compile.dlopen(path).convert() == 1250


@only_on(X86_64, "glibc has vector functions for others since 2.38")
def test_vector_functions_of_libm(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    #include <math.h>
    double values[256];
    EXPORT(sum) {
      for (int i = 0; i < 256; ++i) values[i] = i * 0.1;
      for (int i = 0; i < 256; ++i) values[i] = sin(values[i]) + pow(values[i], 1.5);
      double sum = 0;
      for (int i = 0; i < 256; ++i) sum += values[i];
      RETURN(1e6 * sum);
    }
    """
    path = compile(source, "-O3", "-ffast-math", "-fPIC")
    assert any(symbol.startswith("_ZGV") for symbol in undefined(path))
    assert session.load(path)["sum"]() == compile.dlopen(path).sum()


def test_symbols_of_which_libraries_have_an_old_version_only(
    session: tol.Session, compile: Compiler
) -> None:
    source = """
    #include "safe_call.h"
    #include <string.h>
    extern const char* const sys_siglist[];
    EXPORT(name_length) { RETURN(strlen(sys_siglist[INT(0)])); }
    """
    path = compile(source)
    assert session.load(path)["name_length"](9) == compile.dlopen(path).name_length(9) == 6


OLD = ["stat", "lstat", "fstat", "stat64", "lstat64", "fstat64"]
OLD += ["fstatat", "fstatat64", "mknod", "mknodat"]


@pytest.mark.skipif(not SUPPORT.is_file(), reason="the project's sources are not here")
def test_the_functions_that_older_glibcs_do_not_export(
    session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    """This glibc has them, so they go by other names here."""
    renamed = [f"-D{name}=old_{name}" for name in OLD]
    support = compile(SUPPORT.read_text(), "-O2", "-fPIC", "-DSUPPORT_stat", *renamed)
    paths = ["stat", "lstat", "stat64", "lstat64"]
    source = f"""
    #include "safe_call.h"
    #include <stdlib.h>
    #include <sys/types.h>
    struct status {{ dev_t device; ino_t number; char rest[256]; }} s;
    typedef int of_path(const char*, struct status*), of_file(int, struct status*);
    of_path {", ".join(paths)};
    of_file fstat, fstat64;
    int fstatat(int, const char*, struct status*, int);
    int fstatat64(int, const char*, struct status*, int);
    int mknod(const char*, mode_t, dev_t);
    int mknodat(int, const char*, mode_t, dev_t);
    static const char* path(void) {{ return getenv("SUPPORT_PATH"); }}
    EXPORT(by_path) {{
      of_path* all[] = {{{", ".join(paths)}}};
      RETURN(all[INT(0)](path(), &s) ? -1 : s.number);
    }}
    EXPORT(by_file) {{ RETURN((INT(0) ? fstat : fstat64)((int)INT(1), &s) ? -1 : s.number); }}
    EXPORT(at) {{ RETURN((INT(0) ? fstatat : fstatat64)(-100, path(), &s, 0) ? -1 : s.number); }}
    EXPORT(make) {{ RETURN(mknod(path(), 0100600, 0)); }}
    EXPORT(make_at) {{ RETURN(mknodat((int)INT(0), "second", 0100640, 0)); }}
    """
    user = compile(source, "-O2", "-fPIC", "-w", *renamed)
    assert {f"old_{name}" for name in OLD} <= undefined(user)
    dylib = session.load([user, support])
    target, link = tmp_path / "first", tmp_path / "link"
    link.symlink_to(target)
    os.environ["SUPPORT_PATH"] = str(target)
    assert dylib["make"]() == 0
    assert target.stat().st_mode & 0o777 == 0o600 & ~_umask()
    folder = os.open(tmp_path, os.O_RDONLY)
    assert dylib["make_at"](folder) == 0
    assert (tmp_path / "second").stat().st_size == 0
    assert dylib["by_file"](0, folder) == dylib["by_file"](1, folder) == tmp_path.stat().st_ino
    os.close(folder)
    os.environ["SUPPORT_PATH"] = str(link)
    number, own = target.stat().st_ino, link.lstat().st_ino
    assert [dylib["by_path"](n) for n in range(4)] == [number, own, number, own]
    assert [dylib["at"](n) for n in range(2)] == [number, number]
    del os.environ["SUPPORT_PATH"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


BFLOAT16 = """
#include "safe_call.h"
static int64_t bits(__bf16 value) { return __builtin_bit_cast(unsigned short, value); }
static double number(int64_t bits) { return __builtin_bit_cast(double, bits); }
EXPORT(of_double) { volatile double x = number(INT(0)); RETURN(bits((__bf16)x)); }
EXPORT(of_float) { volatile float x = (float)number(INT(0)); RETURN(bits((__bf16)x)); }
EXPORT(of_long_double) {
  volatile long double x = (long double)number(INT(0)) * (1 + (long double)INT(1) * 0x1p-62L);
  volatile EXTENDED same = x;
  RETURN(bits((__bf16)same));
}
EXPORT(of_quadruple) {
  volatile __float128 x = (__float128)number(INT(0)) + (__float128)INT(1) * (__float128)0x1p-80;
  RETURN(bits((__bf16)x));
}
EXPORT(arithmetic) {
  volatile __bf16 a = (__bf16)number(INT(0)), b = (__bf16)3.0f;
  RETURN(bits(a * b + a / b) + 65536 * (a < b));
}
extern "C" float __extendbfsf2(__bf16);
EXPORT(extend) { RETURN(1000 * __extendbfsf2((__bf16)number(INT(0)))); }
"""


def as_bits(value: float) -> int:
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return int(bits)


@only_on(X86_64, "others have conversions in the code itself")
@pytest.mark.skipif(CLANG is None, reason="no clang")
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_bfloat16(session: tol.Session, compile: Compiler, tmp_path: Path, level: str) -> None:
    """GCC 12's libgcc has nothing of it; the oracle is linked with compiler-rt, which has."""
    assert CLANG is not None
    flags = (level, "-fPIC")
    path = compile.cxx(BFLOAT16, *flags, "-DEXTENDED=long double", toolchain=CLANG)
    # compiler-rt lacks the conversion of long double.
    oracle = compile.cxx(BFLOAT16, *flags, "-DEXTENDED=__float128", toolchain=CLANG)
    wanted = {"__truncdfbf2", "__truncsfbf2", "__truncxfbf2", "__trunctfbf2", "__extendbfsf2"}
    assert wanted <= undefined(path)
    linked = tmp_path / "oracle.so"
    # -z defs: so that it does not find our own in this process.
    folder = Path(tvm_ffi.libinfo.find_libtvm_ffi()).parent
    command = [CLANG.cxx, "-shared", "-rtlib=compiler-rt", "-Wl,-z,defs", str(oracle)]
    command += [f"-L{folder}", "-ltvm_ffi", "-o", str(linked)]
    subprocess.run(command, check=True)
    dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
    dylib = session.load(path)
    half = 1 + 2**-8  # between two neighbours
    values = [0.0, -0.0, 1.0, -1.5, 0.1, half, 1 + 3 * 2**-8, half + 2**-40, half - 2**-40]
    values += [half + 2**-52, -half - 2**-50, 3.3895e38, 3.4e38, 1e39, -1e300, 1e-40, 1e-45, -1e-46]
    values += [
        1e-310,
        math.inf,
        -math.inf,
        math.nan,
        2**-133,
        1.5 * 2**-134,
        2**-134 * (1 + 2**-30),
    ]
    for value in values:
        for name in ("of_double", "of_float", "arithmetic"):
            assert dylib[name](as_bits(value)) == dlopened[name](as_bits(value)), (name, value)
        for name, more in itertools.product(("of_long_double", "of_quadruple"), (-1, 0, 1)):
            arguments = (as_bits(value), more)
            assert dylib[name](*arguments) == dlopened[name](*arguments), (name, value, more)
    assert dylib["extend"](as_bits(-2.5)) == -2500  # GCC's; compiler-rt's takes an integer
