# SPDX-License-Identifier: Apache-2.0
"""What tvm-ffi does not promise of its Python package may be missing, or be another thing."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from compilation import SOURCES, Compiler
from conftest import RunScript
from instances import matrix_but

SOURCE = """
#include <tvm/ffi/tvm_ffi.h>
#include <string>
namespace ffi = tvm::ffi;
static int64_t Add(int64_t a, int64_t b) { return a + b; }
static std::string Greet(std::string name) { return "hello " + name; }
static double Sum(ffi::TensorView numbers) {
  double sum = 0;
  for (int64_t i = 0; i < numbers.size(0); ++i) sum += static_cast<double*>(numbers.data_ptr())[i];
  return sum;
}
static int64_t Apply(ffi::Function function, int64_t value) {
  return function(value, value).cast<int64_t>();
}
static int64_t Length(ffi::Array<ffi::Any> items) { return static_cast<int64_t>(items.size()); }
static ffi::Array<int64_t> Pair(int64_t a, int64_t b) { return {a, b}; }
static void Fail(std::string why) { TVM_FFI_THROW(ValueError) << why; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(add, Add)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(greet, Greet)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(sum, Sum)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(apply, Apply)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(length, Length)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(pair, Pair)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fail, Fail)
"""

REMOVAL = """
import ctypes, gc, sys
import tvm_ffi
from tvm_ffi import core


def change(owner, name, value=None):
    # Of a class that does not let its attributes be set.
    (members,) = gc.get_referents(vars(owner))
    if value is None:
        del members[name]
    else:
        members[name] = value
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))


def owner_of(name):
    (owner,) = (cls for cls in tvm_ffi.Function.__mro__ if name in vars(cls))
    return owner

"""

# What is removed or changed, and whether functions are tvm-ffi's own then.
REMOVALS = {
    "nothing": ("pass", False),
    "CContainerBase": ("vars(core).pop('CContainerBase', None)", False),
    "CObject": ("vars(core).pop('CObject', None)", False),
    "a CObject that is another class": ("core.CObject = dict", False),
    "core.Error": ("del core.Error", False),
    "the name core": ("del tvm_ffi.core", False),
    "remove_global_func": ("del tvm_ffi.registry.remove_global_func", False),
    "__from_extern_c__": (
        "change(owner_of('__from_extern_c__'), '__from_extern_c__')",
        False,
    ),
    "__move_handle_from__": (
        "change(owner_of('__move_handle_from__'), '__move_handle_from__')",
        True,
    ),
    "__chandle__": ("change(owner_of('__chandle__'), '__chandle__')", True),
    "another __chandle__": (
        "change(owner_of('__chandle__'), '__chandle__', lambda self: 8)",
        True,
    ),
    "a __chandle__ of another type": (
        "change(owner_of('__chandle__'), '__chandle__', lambda self: 'eight')",
        True,
    ),
    "a read-only release_gil": (
        "change(tvm_ffi.Function, 'release_gil', property(lambda self: True))",
        True,
    ),
    "a release_gil that is kept elsewhere": (
        "kept = {}\n"
        "change(tvm_ffi.Function, 'release_gil', property("
        "lambda self: kept.get(id(self), True),"
        "lambda self, value: kept.update({id(self): value})))",
        True,
    ),
    "Module.get_function": (
        "get = tvm_ffi.Module.get_function; del tvm_ffi.Module.get_function",
        False,
    ),
}

USES = """
import numpy as np
import tvm_ffi_object_loader as tol

dylib = tol.Session().load(sys.argv[1])
functions = {name: dylib[name] for name in dylib.functions}
add = functions["add"]
assert (type(add) is tvm_ffi.Function) == bool(int(sys.argv[2])), type(add)
assert isinstance(add, tvm_ffi.Function)
assert add(1, 2) == 3
assert add(1, True) == 2
assert functions["greet"]("you") == "hello you"
assert functions["sum"](np.arange(5.0)) == 10
assert functions["apply"](add, 4) == 8
assert functions["apply"](lambda a, b: a * b, 4) == 16
assert functions["length"](tvm_ffi.convert([1, "two", 3.0])) == 3
assert functions["length"]([1, 2]) == 2
assert list(functions["pair"](5, 6)) == [5, 6]
try:
    functions["length"]({1: 2})
except TypeError:
    pass
try:
    functions["fail"]("for a reason")
except ValueError as error:
    assert str(error) == "for a reason"
else:
    raise AssertionError("did not fail")
try:
    add(1)
except TypeError as error:
    assert "expect" in str(error).lower(), error
else:
    raise AssertionError("did not fail")
if hasattr(tvm_ffi.Module, "get_function"):
    module = tvm_ffi.load_module(sys.argv[1])
    assert module.add(1, 2) == module["add"](1, 2) == 3
    assert type(module.add) is type(add)
try:
    tvm_ffi.load_module("absent.o")
except Exception as error:
    assert "absent.o" in str(error), error
else:
    raise AssertionError("did not fail")
dylib.close()
try:
    add(1, 2)
except tol.SessionClosedError:
    pass
else:
    raise AssertionError("called when closed")
"""


@pytest.mark.parametrize("removed", matrix_but(REMOVALS, "nothing", "core.Error", "__chandle__"))
def test_functions_work_without(removed: str, compile: Compiler, run_script: RunScript) -> None:
    removal, are_plain = REMOVALS[removed]
    run_script(REMOVAL + removal + "\n" + USES, compile.cxx(SOURCE), int(are_plain))


def test_it_can_be_imported_without_names_of_errors(
    compile: Compiler, run_script: RunScript
) -> None:
    script = """
import sys
import tvm_ffi
tvm_ffi.register_error = lambda name, cls: cls
del tvm_ffi.core.ERROR_NAME_TO_TYPE
import tvm_ffi_object_loader as tol
assert tol.load_module(sys.argv[1]).add(1, 2) == 3
assert tvm_ffi.load_module(sys.argv[1]).add(1, 2) == 3
"""
    run_script(script, compile.cxx(SOURCE))


# tvm-ffi's Python makes functions with a name in another way than those that calls return.
GETS_GLOBAL = """
#include <tvm/ffi/tvm_ffi.h>
namespace ffi = tvm::ffi;
static ffi::Function Get(ffi::String name) { return ffi::Function::GetGlobalRequired(name); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(get_global_func, Get)
"""

VECTORCALL = """
import gc, sys
import tvm_ffi
sys.path.insert(0, sys.argv[3])
import vectorcall_function as made

base = tvm_ffi.Function
cls = made.derive(base)
# The class that tvm-ffi gives functions. It lets only a class of the same size take its place.
(classes,) = (each for each in gc.get_objects() if type(each) is list and each[68:69] == [base])
classes[68] = cls
library = tvm_ffi.load_module(sys.argv[4])
tvm_ffi.registry.get_global_func = library.get_global_func
assert type(library.get_global_func) is cls
"""


def test_a_vectorcall_of_the_base(compile: Compiler, run_script: RunScript, tmp_path: Path) -> None:
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        pytest.skip("Python's headers are not installed")
    source = SOURCES / "vectorcall_function.c"
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    library = tmp_path / f"vectorcall_function{suffix}"
    command = ["gcc", "-shared", "-fPIC", f"-I{include}", source, "-o", library]
    subprocess.run([*map(str, command)], check=True)
    counts = """
before = made.count()
assert add(1, 2) == 3
assert made.count() == before, "not the fast call"
try:
    add(1, 2, 3, key=4)
except TypeError:
    pass
assert add(*[1], *[2]) == 3
seventeen = [1] * 17
try:
    add(*seventeen)
except TypeError:
    pass
assert made.count() == before + 2, made.count() - before
"""
    uses = USES.replace('assert functions["greet"]', counts + '\nassert functions["greet"]', 1)
    library = compile.link(compile.cxx(GETS_GLOBAL))
    run_script(VECTORCALL + uses, compile.cxx(SOURCE), 0, tmp_path, library)
