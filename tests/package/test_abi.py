# SPDX-License-Identifier: Apache-2.0
"""With a libtvm_ffi.so that differs from what the extension takes it for, the import says so.

Here a library that is loaded before it takes the place of one of its functions, and does what that
would do if things were laid out in another way.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tvm_ffi

from compilation import Compiler

# As the release 0.1.13 had it, which was withdrawn: an Any, which is larger than a Function.
RESULT = """
struct Any {
  long type = 0;
  void* value = nullptr;
  ~Any() {}
};
Any GetFunction(void*, const void*, bool)
    __asm__("_ZN3tvm3ffi9ModuleObj11GetFunctionERKNS0_6StringEb");
__attribute__((visibility("default"))) Any GetFunction(void*, const void*, bool) { return {}; }
"""

# A module that has more of its own than the headers say.
LARGER = """
#include <dlfcn.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/extra/module.h>
extern "C" int TVMFFIEnvModLookupFromImports(void* context, const char* name, void** out) {
  auto* next = (decltype(&TVMFFIEnvModLookupFromImports))dlsym(RTLD_NEXT, __func__);
  static_cast<char*>(context)[sizeof(tvm::ffi::ModuleObj)] = 1;
  return next(context, name, out);
}
"""

# An error whose message comes first.
ERROR = """
#include <dlfcn.h>
#include <tvm/ffi/c_api.h>
extern "C" int TVMFFIErrorCreate(const TVMFFIByteArray* kind, const TVMFFIByteArray* message,
                                 const TVMFFIByteArray* backtrace, TVMFFIObjectHandle* out) {
  auto* next = (decltype(&TVMFFIErrorCreate))dlsym(RTLD_NEXT, __func__);
  return next(message, kind, backtrace, out);
}
"""

# Another of the class's functions is called.
ORDER = """
import tvm_ffi
tvm_ffi.register_global_func("ffi.ModuleGetKind", lambda module: "source", override=True)
"""

DIFFERENCES = {
    "result": (RESULT, "", "ModuleObj::GetFunction returns its function in another form"),
    "size": (LARGER, "", "a module is larger"),
    "error": (ERROR, "", "an error's parts lie elsewhere in it"),
    "order": ("", ORDER, "ModuleObj has its functions in another order"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_library_that_differs_is_an_import_error_that_says_so(
    compile: Compiler, difference: str
) -> None:
    source, before, expected = DIFFERENCES[difference]
    script = f"""
{before}
for _ in range(2):
    try:
        import tvm_ffi_object_loader
    except ImportError as error:
        print(error)
        assert error.name == "tvm_ffi"
"""
    preloaded = compile.link(compile.cxx(source)) if source else ""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_PRELOAD": str(preloaded)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == 2 * (
        f"tvm_ffi_object_loader cannot work with apache-tvm-ffi {tvm_ffi.__version__}, which is "
        f"installed: {expected}. Install another release of either: pip install --upgrade "
        "apache-tvm-ffi tvm-ffi-object-loader\n"
    )
