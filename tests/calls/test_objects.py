# SPDX-License-Identifier: Apache-2.0
"""Objects that loaded code made stay usable when their dylib is dropped or closed."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from long_texts import of_texts, raised, text

# What the function of that name returns for 5, and how to tell that it is whole.
KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: value == text(5),
    "raw": lambda value: value == text(5).encode(),
    "array": of_texts(5),
    "list": lambda value: value[0] == text(5) and list(value[1]) == [text(6), 3],
    "map": lambda value: value["short"] == text(12) and of_texts(5)(value[text(5)]),
    "dict": lambda value: of_texts(5)(value[text(5)]),
    "tensor": lambda value: value.shape == (5,),
    "shape": lambda value: tuple(value) == (5, 6, 7),
    "function": lambda value: value(2) == text(7),
    "nested": lambda value: value(2)(3) == text(10),
    "thrower": lambda value: raised(value) == text(5),
    "managed": lambda value: value.shape == (5,),
    "c_function": lambda value: value(4) == 9,
    "pair": lambda value: value is not None,
}


@pytest.fixture(scope="module")
def objects(compile: Compiler) -> Path:
    return compile.cxx("objects.cc", "-O1", "-fPIC", '-DTYPE_KEY="testing.objects.Pair"')


@pytest.mark.parametrize("how", ["drop", "close", "close the session"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_result_outlives_its_dylib(
    objects: Path, session: tol.Session, trace: Trace, kind: str, how: str
) -> None:
    dylib = session.load(objects, name="objects")
    value = dylib[kind](5)
    assert KINDS[kind](value)
    if how == "close":
        dylib.close()
    elif how == "close the session":
        session.close()
    del dylib
    gc.collect()
    kept = session.stats().retained == 1
    # A str is copied; whatever has a deleter in the code keeps it.
    assert kept == (not isinstance(value, (str, bytes)) or type(value) not in (str, bytes))
    assert "objects" not in session.dylibs
    assert KINDS[kind](value)
    assert (-1 in trace.take()) != kept
    del value
    gc.collect()
    assert session.stats().retained == session.stats().bytes_code == 0
    assert (trace.take()[-1:] == [-1]) == kept


def test_what_a_container_holds_outlives_it(
    objects: Path, session: tol.Session, trace: Trace
) -> None:
    dylib = session.load(objects)
    element = dylib["list"](5)[1][0]
    nested = dylib["map"](5)[text(5)]
    closure = dylib["nested"](5)(6)
    dylib.close()
    del dylib
    gc.collect()
    assert element == text(6)
    assert list(nested) == [text(5), text(6)]
    assert closure(1) == text(12)
    del nested, element
    gc.collect()
    assert trace.take() == []
    del closure
    gc.collect()
    assert trace.take() == [-1]


def test_an_error_outlives_its_dylib(objects: Path, session: tol.Session, trace: Trace) -> None:
    errors: list[BaseException] = []
    dylib = session.load(objects)
    for function in (dylib["fail"], dylib["thrower"](5)):
        try:
            function(5)
        except ValueError as error:
            errors.append(error.with_traceback(None))
    del function
    dylib.close()
    del dylib
    gc.collect()
    assert [str(error) for error in errors] == [text(5), text(5)]
    again = tvm_ffi.convert(lambda error: error)
    with pytest.raises(ValueError, match=text(5)):
        raise errors[0]
    del again
    errors.clear()
    gc.collect()
    assert trace.take() == [-1]
    assert session.stats().retained == 0


def test_a_result_passed_to_other_code(
    objects: Path, compile: Compiler, session: tol.Session, trace: Trace
) -> None:
    holder = """
#include <tvm/ffi/any.h>
#include <tvm/ffi/function.h>
static tvm::ffi::Any held;
void Hold(tvm::ffi::Any value) { held = value; }
tvm::ffi::Any Held() { return held; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(hold, Hold);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(held, Held);
"""
    path = compile.cxx(holder)
    for other in (session.load(path), compile.dlopen(path)):
        dylib = session.load(objects, name="objects")
        other.get_function("hold")(dylib["array"](5))
        dylib.close()
        del dylib
        gc.collect()
        assert of_texts(5)(other.get_function("held")())
        assert trace.take() == []
        other.get_function("hold")(None)
        assert trace.take() == [-1]
        assert session.stats().retained == 0


def test_a_global_function_outlives_its_dylib(
    objects: Path, session: tol.Session, trace: Trace
) -> None:
    session.load(objects)["register"]("testing.objects.adder")
    gc.collect()
    assert session.stats().retained == 1
    assert trace.take() == []
    assert tvm_ffi.get_global_func("testing.objects.adder")(1) == text(1001)
    tvm_ffi.register_global_func("testing.objects.adder", lambda: None, override=True)
    gc.collect()
    assert trace.take() == [-1]
    assert session.stats().retained == 0


def test_a_registered_class_keeps_its_code(compile: Compiler, run_script: RunScript) -> None:
    path = compile.cxx("objects.cc", "-O1", "-fPIC", '-DTYPE_KEY="testing.objects.Registered"')
    run_script(
        "import gc, sys, tvm_ffi\n"
        "import tvm_ffi_object_loader as tol\n"
        "session = tol.Session()\n"
        "dylib = session.load(sys.argv[1])\n"
        "dylib['register_pair'](0)\n"
        "pair = dylib['pair'](5)\n"
        "del dylib\n"
        "gc.collect()\n"
        "assert session.stats().retained == 1\n"
        "first, second = pair.first, list(pair.second)\n"
        "del pair\n"
        "gc.collect()\n"
        "assert first.endswith('value 5') and len(second) == 2\n",
        path,
    )


def test_objects_die_in_other_threads(objects: Path, session: tol.Session, trace: Trace) -> None:
    for _ in range(50):
        dylib = session.load(objects)
        values = [[dylib[kind](5) for kind in KINDS] for _ in range(4)]
        del dylib
        threads = [threading.Thread(target=batch.clear) for batch in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del values, threads
        gc.collect()
        assert trace.take().count(-1) == 1
    assert session.stats().retained == session.stats().bytes_code == 0


def test_a_function_that_drops_itself(objects: Path, session: tol.Session) -> None:
    held = [session.load(objects)["nested"](5)]

    def call_and_drop() -> object:
        return held.pop()(6)

    assert KINDS["function"](call_and_drop()) is False
    gc.collect()
    assert session.stats().retained == 0


def test_imports_of_a_module_that_is_gone(compile: Compiler, session: tol.Session) -> None:
    source = """
#include <tvm/ffi/extra/c_env_api.h>
#include "safe_call.h"
void* __tvm_ffi__library_ctx = 0;
static int look_up(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* ret) {
  TVMFFIObjectHandle found;
  return TVMFFIEnvModLookupFromImports(__tvm_ffi__library_ctx, "missing", &found);
}
EXPORT(make) {
  ret->type_index = kTVMFFIFunction;
  return TVMFFIFunctionCreate(0, look_up, 0, (TVMFFIObjectHandle*)&ret->v_obj);
}
"""
    dylib = session.load(compile(source))
    function = dylib["make"]()
    with pytest.raises(Exception, match="missing"):
        function()
    del dylib
    gc.collect()
    with pytest.raises(Exception, match=r"missing.*hold the module"):
        function()


@pytest.mark.slow
def test_thousands_of_results_leave_nothing(objects: Path, session: tol.Session) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    content = objects.read_bytes()

    def load_call_and_drop(count: int) -> None:
        for _ in range(count):
            dylib = session.load(content)
            values = [dylib[kind](5) for kind in KINDS]
            del dylib
            values.clear()

    load_call_and_drop(200)
    gc.collect()
    before = resident()
    load_call_and_drop(1000)
    gc.collect()
    assert resident() - before < 1 << 20
