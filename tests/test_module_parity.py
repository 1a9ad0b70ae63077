# SPDX-License-Identifier: Apache-2.0
"""A module from objects is what `tvm_ffi.load_module` makes of the same objects, linked."""

from __future__ import annotations

import ctypes
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

RICH = ("-O2", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
EXPORTED = [
    "add",
    "adder",
    "apply",
    "byte_count",
    "catch_standard",
    "concat",
    "half",
    "identity",
    "kind_of_error",
    "lengths",
    "negate",
    "raise_index_error",
    "raise_standard",
    "raise_unknown_kind",
    "raise_value_error",
    "range",
    "scale",
    "sum",
    "tensor_sum",
    "value_of",
]


@pytest.fixture(scope="module")
def dlopened(compile: Compiler) -> tvm_ffi.Module:
    return compile.dlopen(compile("rich.cc", *RICH))


@pytest.fixture(scope="module")
def ours(compile: Compiler) -> tvm_ffi.Module:
    return tol.Session("parity").load_module(compile("rich.cc", *RICH))


def python_sum(value: int) -> int:
    return value + 1000


def raise_key_error(*_: int) -> None:
    raise KeyError("from Python")


CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("add", (1, 2)),
    ("add", (-(2**63), 2**63 - 1)),
    ("add", (True, 2)),
    ("add", (np.int64(4), 2)),
    ("add", (2**63, 1)),
    ("add", (1.5, 2)),
    ("add", ("1", 2)),
    ("add", (None, 2)),
    ("add", (1,)),
    ("add", (1, 2, 3)),
    ("scale", (1.5, 2)),
    ("scale", (float("inf"), 2.0)),
    ("scale", (1, "x")),
    ("negate", (True,)),
    ("negate", (0,)),
    ("negate", ("x",)),
    ("concat", ("", "")),
    ("concat", ("short", "ö")),
    ("concat", ("x" * 1000, "y" * 1000)),
    ("concat", (b"bytes", "y")),
    ("concat", ("a\0b", "c")),
    ("byte_count", (b"",)),
    ("byte_count", (b"\0" * 100,)),
    ("byte_count", (bytearray(b"123"),)),
    ("half", (4,)),
    ("half", (5,)),
    ("range", (0,)),
    ("range", (5,)),
    ("sum", ([1, 2, 3],)),
    ("sum", ((),)),
    ("sum", ([1, "x"],)),
    ("sum", ({"a": 1},)),
    ("lengths", (["a", "bb", "x" * 100],)),
    ("value_of", ({"a": 1, "b": 2}, "b")),
    ("value_of", ({"a": 1}, "absent")),
    ("tensor_sum", (np.arange(10, dtype="float32"),)),
    ("tensor_sum", ([1.0],)),
    ("apply", (python_sum, 1)),
    ("apply", (raise_key_error, 1)),
    ("apply", (5, 1)),
    ("kind_of_error", (raise_key_error, 1)),
    ("raise_value_error", (7,)),
    ("raise_index_error", ()),
    ("raise_unknown_kind", ()),
    ("raise_standard", ()),
    ("catch_standard", ("a message",)),
    *(
        ("identity", (value,))
        for value in (
            None,
            True,
            -1,
            2**62,
            2.5,
            "a string",
            "a longer string " * 10,
            b"bytes",
            [1, [2, "x"]],
            {"k": [1, 2]},
            tvm_ffi.device("cpu", 0),
            tvm_ffi.dtype("float32x4"),
            tvm_ffi.Shape((1, 2, 3)),
        )
    ),
]


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[object, ...]:
    """Return what a call gives, in a form that compares and that holds on to no loaded code."""
    try:
        result = function(*arguments)
    except Exception as error:
        return "raised", type(error), str(error)
    return "returned", type(result), repr(result)


@pytest.mark.parametrize(
    ("name", "arguments"), CALLS, ids=[f"{index}-{name}" for index, (name, _) in enumerate(CALLS)]
)
def test_results_and_errors_are_those_of_the_dlopened_function(
    ours: tvm_ffi.Module, dlopened: tvm_ffi.Module, name: str, arguments: tuple[Any, ...]
) -> None:
    expected = outcome(dlopened.get_function(name), arguments)
    assert outcome(ours.get_function(name), arguments) == expected


def test_the_same_holds_for_functions_of_the_dylib(
    session: tol.Session, compile: Compiler, dlopened: tvm_ffi.Module
) -> None:
    dylib = session.load(compile("rich.cc", *RICH))
    assert dylib.functions == EXPORTED
    for name, arguments in CALLS:
        expected = outcome(dlopened.get_function(name), arguments)
        assert outcome(dylib[name], arguments) == expected


def test_keyword_arguments_are_refused_alike(
    session: tol.Session, compile: Compiler, dlopened: tvm_ffi.Module
) -> None:
    dylib = session.load(compile("rich.cc", *RICH))
    errors = []
    for function in (dlopened.get_function("add"), dylib["add"]):
        with pytest.raises(TypeError) as caught:
            function(1, b=2)  # type: ignore[call-arg]
        errors.append(str(caught.value))
    assert all("keyword" in error for error in errors)


def test_release_gil_is_a_setting_of_the_function(
    session: tol.Session, add_object: str, compile: Compiler
) -> None:
    function = session.load(add_object)["add"]
    dlopened = compile.dlopen(compile("rich.cc", *RICH)).get_function("add")
    assert function.release_gil == dlopened.release_gil
    for release in (False, True):
        function.release_gil = release
        assert function.release_gil is release
        assert function(1, 2) == 3


def test_a_function_made_by_loaded_code_works(ours: tvm_ffi.Module) -> None:
    assert ours.adder(5)(6) == 11


def test_metadata_and_doc(ours: tvm_ffi.Module, dlopened: tvm_ffi.Module) -> None:
    metadata = ours.get_function_metadata("add")
    assert metadata is not None
    assert "type_schema" in metadata
    for name in [*EXPORTED, "absent"]:
        assert ours.get_function_metadata(name) == dlopened.get_function_metadata(name)
        assert ours.get_function_doc(name) == dlopened.get_function_doc(name)
    assert json.loads(metadata["type_schema"])["type"] == "ffi.Function"
    assert ours.get_function_doc("add") == "Add two integers."
    assert ours.get_function_doc("scale") is None


def test_a_source_without_metadata_has_none(session: tol.Session, add_object: str) -> None:
    module = session.load_module(add_object)
    assert module.get_function_metadata("add") is None
    assert module.get_function_doc("add") is None


def test_properties_of_the_module(ours: tvm_ffi.Module, dlopened: tvm_ffi.Module) -> None:
    assert isinstance(ours, tvm_ffi.Module)
    assert ours.is_runnable()
    assert ours.implements_function("add")
    assert not ours.implements_function("absent")
    assert list(ours.imports) == list(dlopened.imports) == []
    for module in (ours, dlopened):
        with pytest.raises(AttributeError, match="absent"):
            module.get_function("absent")
        assert module["add"](1, 2) == 3


def test_a_module_sees_later_loads(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(compile("rich.cc", *RICH))
    module = dylib.module
    source = '#include "safe_call.h"\nEXPORT(later) { RETURN(6); }\n'
    dylib.load(compile(source))
    assert module.later() == 6
    assert dylib.module.later() == 6


def library_bin(tree: list[list[int]], modules: list[tuple[str, bytes | None]]) -> str:
    """Return C source that defines ``__tvm_ffi__library_bin``.

    `tree` lists the imports of each module by index; the content of ``_lib``, which stands for the
    library itself, is None.
    """

    def vector(values: list[int]) -> bytes:
        return struct.pack(f"<Q{len(values)}Q", len(values), *values)

    def string(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    ends = [0, *itertools.accumulate(len(children) for children in tree)]
    blob = vector(ends) + vector([child for children in tree for child in children])
    for kind, content in modules:
        blob += string(kind.encode()) + (b"" if content is None else string(content))
    data = ",".join(str(byte) for byte in struct.pack("<Q", len(blob)) + blob)
    return f"const unsigned char __tvm_ffi__library_bin[] = {{{data}}};\n"


USES_IMPORTS = """
#include "safe_call.h"
#include <tvm/ffi/extra/c_env_api.h>
void* __tvm_ffi__library_ctx = 0;
EXPORT(context) { RETURN(__tvm_ffi__library_ctx != 0); }
EXPORT(call_import) {
  TVMFFIObjectHandle function;
  if (TVMFFIEnvModLookupFromImports(__tvm_ffi__library_ctx, "imported", &function)) return -1;
  TVMFFIAny call_args[1] = {args[0]};
  return TVMFFIFunctionCall(function, call_args, 1, ret);
}
"""
IMPORTED = """
#include "safe_call.h"
EXPORT(imported) { RETURN(FACTOR * INT(0)); }
EXPORT(NAME) { RETURN(FACTOR); }
"""


@pytest.fixture
def kind(compile: Compiler) -> Iterator[str]:
    """Register a kind of module whose content is a factor; return the kind."""

    def load(content: bytes) -> tvm_ffi.Module:
        factor = int(bytes(content))
        flags = ("-O1", "-fPIC", f"-DFACTOR={factor}", f"-DNAME=factor_{factor}")
        return compile.dlopen(compile(IMPORTED, *flags))

    name = "ffi.Module.load_from_bytes.test_factor"
    tvm_ffi.register_global_func(name, load, override=True)
    yield "test_factor"
    tvm_ffi.remove_global_func(name)


def both(session: tol.Session, compile: Compiler, source: str) -> list[tvm_ffi.Module]:
    path = compile(source)
    return [session.load_module(path), compile.dlopen(path)]


def test_the_library_context(session: tol.Session, compile: Compiler) -> None:
    for module in both(session, compile, USES_IMPORTS):
        assert module.context() == 1
        with pytest.raises(RuntimeError, match="imported"):
            module.call_import(3)


def test_the_library_context_finds_global_functions(
    session: tol.Session, compile: Compiler
) -> None:
    tvm_ffi.register_global_func("imported", lambda n: n + 0.5, override=True)
    try:
        for module in both(session, compile, USES_IMPORTS):
            assert module.call_import(3) == 3.5
    finally:
        tvm_ffi.remove_global_func("imported")


def test_imports_are_rebuilt(session: tol.Session, compile: Compiler, kind: str) -> None:
    blob = library_bin([[1, 2], [], []], [("_lib", None), (kind, b"10"), (kind, b"100")])
    for module in both(session, compile, USES_IMPORTS + blob):
        assert len(module.imports) == 2
        assert [m.kind for m in module.imports] == ["library", "library"]
        assert module.call_import(3) == 30
        assert module.get_function("factor_100", query_imports=True)() == 100
        assert module.implements_function("factor_10", query_imports=True)
        with pytest.raises(AttributeError):
            module.get_function("factor_10")


def test_a_library_that_is_not_the_root(session: tol.Session, compile: Compiler, kind: str) -> None:
    blob = library_bin([[1], [2], []], [(kind, b"7"), ("_lib", None), (kind, b"70")])
    for module in both(session, compile, USES_IMPORTS + blob):
        assert module.factor_7() == 7
        (library,) = module.imports
        assert library.get_function("call_import")(2) == 140
        assert [m.get_function("factor_70")() for m in library.imports] == [70]


def test_an_unknown_kind_of_import_names_its_loader(
    session: tol.Session, compile: Compiler
) -> None:
    blob = library_bin([[1], []], [("_lib", None), ("unheard_of", b"x")])
    path = compile(USES_IMPORTS + blob)
    for load in (compile.dlopen, session.load_module):
        with pytest.raises(RuntimeError, match=r"ffi\.Module\.load_from_bytes\.unheard_of"):
            load(path)


def test_imports_can_be_added(session: tol.Session, compile: Compiler, kind: str) -> None:
    module, dlopened = both(session, compile, USES_IMPORTS)
    other = session.load_module(compile(IMPORTED, "-DFACTOR=2", "-DNAME=two"))
    for importing in (module, dlopened):
        importing.import_module(other)
        assert importing.call_import(21) == 42
        importing.clear_imports()
        assert list(importing.imports) == []


def test_context_symbols_are_set(session: tol.Session, compile: Compiler) -> None:
    target = ctypes.c_int64(4711)
    register = tvm_ffi.LIB.TVMFFIEnvModRegisterContextSymbol
    register.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    for name in (b"__test_context_symbol", b"__test_context_symbol_that_nobody_has"):
        assert register(name, ctypes.addressof(target)) == 0
    KEPT.append(target)  # there is no way to unregister it
    source = """
    #include "safe_call.h"
    int64_t* __test_context_symbol = 0;
    EXPORT(read_context) { RETURN(__test_context_symbol ? *__test_context_symbol : -1); }
    """
    for module in both(session, compile, source):
        assert module.read_context() == 4711


KEPT: list[object] = []
