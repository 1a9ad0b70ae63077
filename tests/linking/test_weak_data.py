# SPDX-License-Identifier: Apache-2.0
"""Weak definitions of C in several dylibs: those of data are one, a function is its dylib's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain, both_makes
from conftest import RunScript
from link_orders import addresses, call, dlopen, link, numbers

pytestmark = pytest.mark.matrix

WEAK_DATA = {
    "initialized": "BOUND int64_t entity = 100;",
    "zero": "BOUND int64_t entity;",
    "constant": "BOUND const int64_t entity = 100;",
    "an array": "BOUND int64_t entity[50] = {100};",
    "a pointer": "static int64_t target = 100; BOUND int64_t* entity = &target;",
    "thread-local": "BOUND _Thread_local int64_t entity = 100;",
}
WEAK = """
#include "safe_call.h"
#define BOUND __attribute__((BINDING))
DEFINITION
__attribute__((weak, noinline)) int64_t entity_function(void) { return NUMBER; }
EXPORT(NAME_address) { RETURN(&entity); }
EXPORT(NAME_own) { RETURN(entity_function()); }
EXPORT(NAME_function) { int64_t (*volatile function)(void) = entity_function; RETURN(function()); }
"""


def weak(
    compile: Compiler,
    toolchain: Toolchain,
    data: str,
    name: str,
    number: int,
    entity: str,
    binding: str = "weak",
) -> Path:
    """An object that defines the data, and a weak function that returns `number`."""
    source = WEAK.replace("DEFINITION", WEAK_DATA[data]).replace("entity", entity)
    source = source.replace("NAME", name).replace("BINDING", binding)
    return compile(source, "-O1", "-fPIC", f"-DNUMBER={number}", toolchain=toolchain)


@pytest.mark.parametrize("binding", ["weak", "used"], ids=["weak in base", "strong in base"])
@both_makes
@pytest.mark.parametrize("data", WEAK_DATA)
def test_weak_definitions_of_c_along_a_link_order(
    session: tol.Session, compile: Compiler, binding: str, toolchain: Toolchain, data: str
) -> None:
    entity = f"weak{next(numbers)}"
    base = weak(compile, toolchain, data, "base", 1, entity, binding)
    app = weak(compile, toolchain, data, "app", 2, entity)
    base_dylib = session.load(base)
    app_dylib = session.load(app, link_order=[base_dylib])
    base_library = compile.link(base)
    app_module, base_module = dlopen(link(compile, app, base_library), base_library)
    assert len(addresses({"base": base_module, "app": app_module})) == 1
    assert len(addresses({"base": base_dylib, "app": app_dylib})) == 1
    for name in ("app_own", "app_function"):
        assert call(app_dylib, name) == call(app_module, name) == 2
    assert call(base_dylib, "base_function") == 1


@both_makes
@pytest.mark.parametrize("data", WEAK_DATA)
def test_weak_definitions_of_c_in_dylibs_that_are_not_linked(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, data: str
) -> None:
    first, second = (
        session.load(weak(compile, toolchain, data, "f", number, "entity")) for number in (1, 2)
    )
    assert addresses({"f": first}).isdisjoint(addresses({"f": second}))
    assert [call(first, "f_function"), call(second, "f_function")] == [1, 2]


WITH_THE_PROCESS = """
import ctypes, json, sys
import tvm_ffi, tvm_ffi_object_loader as tol

library, how, count, *paths = sys.argv[1:]
ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
of_library = tvm_ffi.load_module(library)
mine = tol.Session().load(paths) if how == "loaded" else tvm_ffi.load_module(*paths)
print(json.dumps([
    of_library.get_function(f"library{n}_address")() == mine.get_function(f"mine{n}_address")()
    for n in range(int(count))
]))
"""


@pytest.mark.parametrize("binding", ["weak", "used"], ids=["weak there", "strong there"])
@both_makes
def test_weak_data_of_c_with_a_library_that_the_process_has(
    compile: Compiler, run_script: RunScript, binding: str, toolchain: Toolchain
) -> None:
    library, objects = [], []
    for n, data in enumerate(WEAK_DATA):
        library.append(weak(compile, toolchain, data, f"library{n}", 1, f"entity{n}", binding))
        objects.append(weak(compile, toolchain, data, f"mine{n}", 2, f"entity{n}"))
    path = compile.link(*library)
    ways = (("loaded", *objects), ("dlopened", compile.link(*objects)))
    ours, dlopened = (
        dict(zip(WEAK_DATA, json.loads(output), strict=True))
        for output in (
            run_script(WITH_THE_PROCESS, path, how, len(objects), *paths) for how, *paths in ways
        )
    )
    assert ours == dlopened == dict.fromkeys(WEAK_DATA, True)
