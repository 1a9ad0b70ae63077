# SPDX-License-Identifier: Apache-2.0
"""Objects with embedded GPU code: registered when they are loaded, un-registered before they go.

(What nvcc itself makes is in test_nvcc.py, for machines that have it.)

The objects have what `nvcc -c` and clang put into the host's side of a CUDA source; a library with
the registration functions of the CUDA runtime takes the place of libcudart and notes what it sees.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace

RUNTIME = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "trace.h"

struct Wrapper { int32_t magic, version; const uint64_t* data; void* unused; };

static int64_t sum(const struct Wrapper* wrapper) {
  uint64_t total = 0, words = wrapper->data[0];
  for (uint64_t i = 1; i <= words; ++i) total += wrapper->data[i];
  return (int64_t)total;
}

void** __cudaRegisterFatBinary(void* fat_binary) {
  struct Wrapper* wrapper = fat_binary;
  trace(wrapper->magic == 0x466243b1 ? 1 : -1);
  trace(sum(wrapper));
  return (void**)wrapper;
}
void __cudaRegisterFunction(void** handle, const char* stub, char* name, const char* device_name,
                            int limit, void* a, void* b, void* c, void* d, int* e) {
  trace(2);
  trace((int64_t)strlen(device_name));
  trace(((int64_t(*)(int64_t))stub)(5));
}
void __cudaRegisterFatBinaryEnd(void** handle) { trace(3); }
void __cudaUnregisterFatBinary(void** handle) {
  trace(4);
  trace(sum((struct Wrapper*)handle));
  printf("unregistered %lld\\n", (long long)sum((struct Wrapper*)handle));
  fflush(stdout);
}
"""

# The host's side of a source with one kernel. WORDS 64-bit words of GPU code, each a 3.
HOST = """
#include <stdlib.h>
#include "safe_call.h"
#define TEXT(x) TEXT_(x)
#define TEXT_(x) #x
__asm__(
    ".section .nv_fatbin, \\"a\\"\\n"
    ".balign 8\\n"
    "gpu_code: .quad " TEXT(WORDS) "\\n"
    ".fill " TEXT(WORDS) ", 8, 3\\n"
    ".text\\n");
extern const uint64_t gpu_code[] __attribute__((visibility("hidden")));
static SEGMENT_CONST struct { int32_t magic, version; const uint64_t* data; void* unused; } wrapper
    __attribute__((section(".nvFatBinSegment"), aligned(8), used)) = {0x466243b1, 1, gpu_code, 0};

extern void** __cudaRegisterFatBinary(void*);
extern void __cudaRegisterFatBinaryEnd(void**);
extern void __cudaUnregisterFatBinary(void**);
extern void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*, void*,
                                   void*, void*, int*);
static void** handle;
int64_t kernel_stub(int64_t n) { return n + 37; }

static void unregister(void) { __cudaUnregisterFatBinary(handle); }
__attribute__((constructor)) static void register_all(void) {
  handle = __cudaRegisterFatBinary((void*)&wrapper);
  __cudaRegisterFunction(handle, (const char*)kernel_stub, "_Z6kernelPf", "_Z6kernelPf", -1, 0, 0,
                         0, 0, 0);
  __cudaRegisterFatBinaryEnd(handle);
  AT_UNLOAD
}
OTHER
EXPORT(run) { RETURN(kernel_stub(INT(0))); }
"""
UNREGISTERS: dict[str, tuple[str, str]] = {
    "as nvcc does, in atexit": ("-DAT_UNLOAD=atexit(unregister);", "-DOTHER="),
    "in a destructor": (
        "-DAT_UNLOAD=",
        "-DOTHER=__attribute__((destructor)) static void fini(void) { unregister(); }",
    ),
}


def host_object(
    compile: Compiler, words: int = 4, how: str = "as nvcc does, in atexit", segment: str = "const"
) -> Path:
    flags = ("-O2", "-fPIC", f"-DWORDS={words}", f"-DSEGMENT_CONST={segment}", *UNREGISTERS[how])
    return compile(HOST, *flags, name="kernels")


@pytest.fixture(scope="module")
def runtime_library(compile: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library in libcudart's place."""
    path = tmp_path_factory.mktemp("runtime") / "libcudart.so"
    compile.link(compile(RUNTIME, name="runtime")).replace(path)
    return path


@pytest.fixture
def runtime(runtime_library: Path) -> Iterator[None]:
    """Make the registration functions known to the process, for one test."""
    library = ctypes.CDLL(str(runtime_library), ctypes.RTLD_GLOBAL)
    yield
    dlclose = ctypes.CDLL(None).dlclose
    dlclose.argtypes = [ctypes.c_void_p]
    dlclose(library._handle)


def registered(words: int) -> list[int]:
    return [1, 3 * words, 2, 11, 42, 3]


def unregistered(words: int) -> list[int]:
    return [4, 3 * words]


@pytest.mark.parametrize("segment", ["const", ""], ids=["read-only segment", "writable segment"])
@pytest.mark.parametrize("how", UNREGISTERS)
@pytest.mark.usefixtures("runtime")
def test_registered_at_load_and_unregistered_before_the_memory_goes(
    session: tol.Session, compile: Compiler, trace: Trace, how: str, segment: str
) -> None:
    path = host_object(compile, how=how, segment=segment)
    loads: list[Callable[[], tol.Dylib | tvm_ffi.Module]] = [
        lambda: compile.dlopen(path),
        lambda: session.load(path),
    ]
    for load in loads:
        functions = load()
        assert trace.take() == registered(4)
        assert functions["run"](5) == 42
        assert trace.take() == []
        del functions
        assert trace.take() == unregistered(4)


@pytest.mark.usefixtures("runtime")
def test_closing_unregisters_the_last_loaded_first(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    objects = [host_object(compile, words) for words in (10, 20)]
    dylib = session.load(objects[0])
    other = session.load(objects[1])
    assert trace.take() == registered(10) + registered(20)
    session.close()
    assert trace.take() == unregistered(20) + unregistered(10)
    assert dylib.closed
    assert other.closed


@pytest.mark.usefixtures("runtime")
def test_64_mib_of_gpu_code(session: tol.Session, compile: Compiler, trace: Trace) -> None:
    words = 8 << 20
    dylib = session.load(host_object(compile, words))
    assert dylib["run"](1) == 38
    assert trace.take() == registered(words)
    dylib.close()
    assert trace.take() == unregistered(words)


@pytest.mark.usefixtures("runtime")
def test_partially_linked(
    session: tol.Session, compile: Compiler, trace: Trace, tmp_path: Path
) -> None:
    together = tmp_path / "together.o"
    other = compile("long other(void) { return 1; }\n")
    subprocess.run(["ld", "-r", host_object(compile), other, "-o", together], check=True)
    session.load(together).close()
    assert trace.take() == registered(4) + unregistered(4)


AT_EXIT = """
import ctypes
import sys
import tvm_ffi_object_loader as tol

ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
module = tol.load_module(sys.argv[2])
print(module.run(5), flush=True)
"""


def test_unregistered_at_the_end_of_the_process(
    compile: Compiler, runtime_library: Path, run_script: RunScript
) -> None:
    output = run_script(AT_EXIT, runtime_library, host_object(compile, 7))
    assert output == "42\nunregistered 21\n"


WITHOUT = """
import sys
import tvm_ffi_object_loader as tol

try:
    tol.load_module(sys.argv[1])
except tol.UndefinedSymbolError as error:
    print(*error.symbols)
    print(error)
"""


def test_without_the_runtime_its_functions_are_named(
    compile: Compiler, run_script: RunScript
) -> None:
    path = host_object(compile)
    symbols, *message = run_script(WITHOUT, path).splitlines()
    assert symbols.split() == [
        "__cudaRegisterFatBinary",
        "__cudaRegisterFatBinaryEnd",
        "__cudaRegisterFunction",
        "__cudaUnregisterFatBinary",
    ]
    assert message[0] == f"{path}: undefined symbols:"
    named = sorted(line.split(", used by")[0].strip() for line in message[1:5])
    assert named == symbols.split()
    assert re.match("4 of them are in the CUDA runtime, .*libcudart", message[-1])
