# SPDX-License-Identifier: Apache-2.0
"""A module from objects is what `tvm_ffi.load_module` makes of the same objects, linked."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from tvm_ffi_object_loader import _native

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


def test_functions_of_a_module_are_those_of_the_dylib(
    session: tol.Session, add_object: Path
) -> None:
    dylib = session.load(add_object)
    fast = type(dylib["add"])
    assert issubclass(fast, tvm_ffi.Function)
    assert fast is not tvm_ffi.Function
    loader = tol.ObjectLoader(session=session).load(add_object)
    for module in (
        dylib.module,
        loader.module,
        session.load_module(add_object),
        tol.load_module(add_object),
        tvm_ffi.load_module(add_object),
        tvm_ffi.load_module(add_object, keep_module_alive=False),
    ):
        assert type(module) is tvm_ffi.Module
        for function in (module.get_function("add"), module["add"], module.add):
            assert type(function) is fast
            assert function(1, 2) == 3
        assert module.add is module.add


def test_functions_of_other_modules_stay_as_they_are(compile: Compiler, add_object: Path) -> None:
    module = compile.dlopen(add_object)
    assert type(module.get_function("add")) is tvm_ffi.Function
    assert module["add"](1, 2) == module.get_function(name="add", query_imports=True)(1, 2) == 3
    with pytest.raises(AttributeError, match="absent"):
        module.get_function("absent")


ASPECTS: list[Callable[[tvm_ffi.Module], object]] = [
    lambda module: type(module).__name__,
    lambda module: type(module).__module__,
    lambda module: type(module).__doc__,
    lambda module: isinstance(module, tvm_ffi.Module),
    lambda module: module.kind,
    lambda module: list(module.imports),
    lambda module: module.get_property_mask(),
    lambda module: module == copy.copy([module])[0],
    lambda module: module == tvm_ffi.convert([module])[0],
    lambda module: hash(module) == hash(tvm_ffi.convert([module])[0]),
    lambda module: tvm_ffi.convert([module])[0] is module,
    lambda module: tvm_ffi.convert({"module": module})["module"].add(1, 2),
    lambda module: type(tvm_ffi.convert(module)) is type(module),
    lambda module: module.implements_function("add", True),
    lambda module: module.get_function("absent"),
    lambda module: module.get_function(3),  # type: ignore[arg-type]
    lambda module: module.get_function(),  # type: ignore[call-arg]
    lambda module: module.get_function("add", True, 1),  # type: ignore[call-arg]
    lambda module: module.get_function(name="add", query_imports=False)(1, 2),
    lambda module: module.get_function.__doc__,
    lambda module: module.absent,
    lambda module: module[3],  # type: ignore[index]
    lambda module: module(),
    lambda module: repr(module),
    copy.copy,
    copy.deepcopy,
    lambda module: setattr(module, "name", 5) or module.name,  # type: ignore[func-returns-value]
]


@pytest.mark.parametrize("aspect", ASPECTS, ids=range(len(ASPECTS)))
def test_a_module_is_one_to_tvm_ffi(
    ours: tvm_ffi.Module, dlopened: tvm_ffi.Module, aspect: Callable[[tvm_ffi.Module], object]
) -> None:
    assert outcome(aspect, (ours,)) == outcome(aspect, (dlopened,))


def test_functions_of_imports_are_found(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    dylib = session.load(compile('#include "safe_call.h"\nEXPORT(own) { RETURN(1); }\n'))
    module = dylib.module
    module.import_module(compile.dlopen(compile("rich.cc", *RICH)))
    module.import_module(session.load_module(add_object))
    with pytest.raises(AttributeError, match="negate"):
        module.get_function("negate")
    imported = module.get_function("negate", query_imports=True)
    assert type(imported) is tvm_ffi.Function
    assert imported(True) is False
    assert module.get_function("add", True)(1, 2) == 3


def test_a_function_that_somebody_has_is_left_to_them(add_object: Path) -> None:
    # As tvm-ffi gives it, which is what others may have got before.
    plain = tvm_ffi.Module.get_function.__wrapped__  # type: ignore[attr-defined]
    held = plain(tvm_ffi.load_module(add_object), "add")
    assert type(held) is tvm_ffi.Function
    assert _native.fast_function(held) is held
    assert _native.fast_function((lambda: held)()) is held
    assert held(1, 2) == 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_module_has_the_class_registered_for_modules(
    run_script: RunScript, add_object: Path, when: str
) -> None:
    script = """
import sys
import tvm_ffi

if sys.argv[2] == "after":
    import tvm_ffi_object_loader as tol
    before = tol.load_module(sys.argv[1])

@tvm_ffi.register_object("ffi.Module")
class Module(tvm_ffi.Module):
    def sum(self, *numbers):
        return self.get_function("add")(*numbers)

import tvm_ffi_object_loader as tol

fast = type(tol.default_session().load(sys.argv[1])["add"])
for load in (tol.load_module, tvm_ffi.load_module):
    module = load(sys.argv[1])
    assert type(module) is Module
    assert module.sum(1, 2) == 3
    assert type(module.add) is type(module["add"]) is type(module.get_function("add")) is fast
if sys.argv[2] == "after":
    assert type(before.add) is fast
"""
    assert run_script(script, add_object, when) == ""
