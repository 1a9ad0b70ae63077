# SPDX-License-Identifier: Apache-2.0
"""Objects compiled with -fsanitize: reports of faults are those of the dlopened library.

They differ in where the code is said to lie: the sanitizers read debug information of files only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain

per_toolchain = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda chain: chain.name)

ADDRESS = """
#include "safe_call.h"
#include <stdlib.h>
#include <string.h>
static int64_t table[4] = {1, 2, 3, 4};
EXPORT(heap) {
  int64_t* values = malloc(40);
  memset(values, 0, 40);
  int64_t value = values[INT(0)];
  free(values);
  RETURN(value);
}
EXPORT(freed) {
  int64_t* values = malloc(40);
  free(values);
  RETURN(*(volatile int64_t*)(values + INT(0)));
}
EXPORT(table) { RETURN(table[INT(0)]); }
EXPORT(stack) {
  volatile int64_t values[4] = {1, 2, 3, 4};
  RETURN(values[INT(0)]);
}
"""
UNDEFINED = """
#include "safe_call.h"
EXPORT(overflow) { int32_t n = INT(0); RETURN(n + 2147483647); }
EXPORT(shift) { int32_t n = INT(0); RETURN(1 << n); }
EXPORT(bounds) {
  int32_t table[3] = {1, 2, 3};
  int64_t n = INT(0);
  volatile int32_t found = table[n & 3];
  RETURN(n);
}
"""
THREAD = """
#include "safe_call.h"
#include <pthread.h>
static int64_t shared;
static void* add(void* amount) { return shared += *(int64_t*)amount, NULL; }
EXPORT(race) {
  pthread_t first, second;
  int64_t amount = INT(0);
  pthread_create(&first, NULL, add, &amount);
  pthread_create(&second, NULL, add, &amount);
  pthread_join(first, NULL);
  pthread_join(second, NULL);
  RETURN(shared);
}
"""
SCRIPT = """
import sys
import tvm_ffi
import tvm_ffi_object_loader as tol
path, function, argument, *libraries = sys.argv[1:]
if path.endswith(".so"):
    functions = tvm_ffi.load_module(path)
else:
    functions = tol.Session().load(path, link_order=libraries)
print(functions[function](int(argument)))
"""
# In clang's folder, the names have the sanitizer's.
CLANGS = {"undefined": "ubsan_standalone", "address": "asan", "thread": "tsan"}
GCCS = {"undefined": "ubsan", "address": "asan", "thread": "tsan"}


def runtime(toolchain: Toolchain, sanitizer: str) -> Path:
    if toolchain is GCC:
        name = f"lib{GCCS[sanitizer]}.so"
    else:
        name = f"libclang_rt.{CLANGS[sanitizer]}-x86_64.so"
    command = [toolchain.cc, f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.exists():
        pytest.skip(f"{toolchain.cc} has no {name}")
    return path.resolve()


def compiled(compile: Compiler, source: str, sanitizer: str, toolchain: Toolchain) -> Path:
    flags = ("-g", "-O1", "-fPIC", f"-fsanitize={sanitizer}")
    return compile(source, *flags, toolchain=toolchain, name=sanitizer)


def run(path: Path, *arguments: object, preload: Path | None = None) -> tuple[int, str, str]:
    """Call a function in a process of its own: the status, and what is printed."""
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_summary=0"}
    env |= {"TSAN_OPTIONS": "report_signal_unsafe=0"}
    if preload:
        env["LD_PRELOAD"] = str(preload)
    command = [sys.executable, "-c", SCRIPT, str(path), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    return result.returncode, result.stdout, result.stderr


def plain(report: str) -> list[str]:
    """Return the report's lines without places, and without what surrounds the address."""
    report = report.partition("Shadow bytes around")[0]
    report = re.sub(r"defined in '[^']*'", "", report)
    report = re.sub(r"^ +#\d+ .*\n", "", report, flags=re.MULTILINE)
    report = re.sub(r"^(SUMMARY: \w+: [\w-]+).*", r"\1", report, flags=re.MULTILINE)
    return re.sub(r"0x[0-9a-f]+|==\d+==", "…", report).splitlines()


def errors_in(report: str) -> list[str]:
    return [line for line in plain(report) if "runtime error: " in line]


@per_toolchain
@pytest.mark.parametrize(
    ("function", "bad", "good", "words"),
    [
        ("heap", 5, 4, ["heap-buffer-overflow", "40-byte region"]),
        ("freed", 1, None, ["heap-use-after-free", "40-byte region"]),
        ("table", 5, 3, ["global-buffer-overflow", "global variable 'table'", "of size 32"]),
        ("stack", 4, 3, ["stack-buffer-overflow", "'values' (line"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_access(
    compile: Compiler,
    toolchain: Toolchain,
    function: str,
    bad: int,
    good: int | None,
    words: list[str],
) -> None:
    library = runtime(toolchain, "address")
    path = compiled(compile, ADDRESS, "address", toolchain)
    if good is not None:
        expected = "4\n" if good == 3 else "0\n"
        assert run(path, function, good, preload=library) == (0, expected, "")
    status, output, report = run(path, function, bad, preload=library)
    dlopened = run(compile.link(path), function, bad, preload=library)
    assert (status, output) == dlopened[:2]
    assert plain(report) == plain(dlopened[2])
    assert status != 0
    for word in words:
        assert word in report


@per_toolchain
@pytest.mark.parametrize(("function", "bad"), [("overflow", 5), ("shift", 40), ("bounds", 3)])
@pytest.mark.parametrize("preloaded", [True, False], ids=["preloaded", "in link_order"])
def test_undefined_behaviour(
    compile: Compiler, toolchain: Toolchain, function: str, bad: int, preloaded: bool
) -> None:
    library = runtime(toolchain, "undefined")
    path = compiled(compile, UNDEFINED, "undefined", toolchain)
    expected = run(compile.link(path), function, bad, preload=library)
    assert "runtime error: " in expected[2]
    if preloaded:
        result = run(path, function, bad, preload=library)
    else:
        result = run(path, function, bad, library)
    assert result[:2] == expected[:2]
    # Beside what is wrong, the bytes around are shown.
    assert errors_in(result[2]) == errors_in(expected[2])


@per_toolchain
def test_a_data_race(compile: Compiler, toolchain: Toolchain) -> None:
    library = runtime(toolchain, "thread")
    path = compiled(compile, THREAD, "thread", toolchain)
    expected = run(compile.link(path), "race", 40, preload=library)
    if "unexpected memory mapping" in expected[2]:
        pytest.skip("ThreadSanitizer cannot place its memory here")
    status, output, report = run(path, "race", 40, preload=library)
    assert (status, output) == expected[:2]
    assert output == "80\n"
    for said in (report, expected[2]):
        assert "WARNING: ThreadSanitizer: data race" in said
        assert "of size 8" in said
        assert "created by main thread" in said
    assert status != 0


@per_toolchain
@pytest.mark.parametrize(
    ("source", "sanitizer"),
    [(ADDRESS, "address"), (UNDEFINED, "undefined"), (THREAD, "thread")],
    ids=["address", "undefined", "thread"],
)
def test_without_the_runtime_library(
    session: tol.Session, compile: Compiler, source: str, sanitizer: str, toolchain: Toolchain
) -> None:
    path = compiled(compile, source, sanitizer, toolchain)
    with pytest.raises(tol.UndefinedSymbolError) as caught:
        session.load(path)
    prefix = {"address": "__asan_", "undefined": "__ubsan_", "thread": "__tsan_"}[sanitizer]
    assert caught.value.symbols
    assert [name for name in caught.value.symbols if not name.startswith(prefix)] == []
    assert session.stats().dylibs == 0
