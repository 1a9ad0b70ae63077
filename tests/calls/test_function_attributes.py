# SPDX-License-Identifier: Apache-2.0
"""Functions of loaded code say what they are, and take keywords where names are known."""

from __future__ import annotations

import functools
import gc
import inspect
import pydoc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import Trace
from tvm_ffi_object_loader import _signatures

TYPED = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>
int64_t Add(int64_t a, int64_t b) { return a + b; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(add, Add);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(add, "Add two integers.");
int64_t Scale(int64_t a, int64_t b) { return a * b; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, Scale);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(scale, "scale(value, factor=2)\\n--\\n\\nMultiply.");
int64_t Mix(int64_t a, int64_t b, int64_t c) { return a + 10 * b + 100 * c; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(mix, Mix);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(mix, "mix(a: int, b: int = 3, *, c: int = 4) -> int");
tvm::ffi::String Cat(tvm::ffi::String a, tvm::ffi::TensorView) { return a; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(cat, Cat);
int64_t Wrong(int64_t a) { return a; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(wrong, Wrong);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(wrong, "wrong(a, b)\\n--\\n\\nWhich has one parameter only.");
"""
WITH = "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1"
OF_A_KERNEL = """
#include "safe_call.h"
EXPORT(kernel) {
  if (num_args == 9) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "Mismatched type on argument #0 when calling: "
                                 "`kernel(A: Tensor([n], float32), n: int32)`, expected Tensor");
    return -1;
  }
  RETURN(INT(0) - INT(1));
}
"""


@pytest.fixture(scope="module")
def typed_object(compile: Compiler) -> Path:
    return compile.cxx(TYPED, "-O1", "-fPIC", WITH, name="typed")


@pytest.fixture
def typed(session: tol.Session, typed_object: Path) -> tol.Dylib:
    return session.load(typed_object, name="math")


def test_of_an_object_with_metadata(typed: tol.Dylib) -> None:
    add: Any = typed["add"]
    assert (add.__name__, add.__qualname__) == ("add", "add")
    assert add.__doc__ == inspect.getdoc(add) == "Add two integers."
    assert str(inspect.signature(add)) == "(arg0: int, arg1: int, /) -> int"
    assert repr(add) == "<Function add(arg0: int, arg1: int, /) -> int, dylib 'math'>"
    assert repr(typed["cat"]) == "<Function cat(arg0: str, arg1: Tensor, /) -> str, dylib 'math'>"
    assert add.__module__ in sys.modules
    assert isinstance(add, tvm_ffi.Function)
    assert add(1, 2) == 3


def test_as_an_attribute_of_a_module(typed: tol.Dylib) -> None:
    add: Any = typed.module.add
    assert add.__name__ == "add"
    assert str(inspect.signature(typed.module["scale"])) == "(value: int, factor: int = 2) -> int"


def test_names_and_defaults_that_the_documentation_begins_with(typed: tol.Dylib) -> None:
    scale: Any = typed["scale"]
    assert scale.__doc__ == "Multiply."
    assert repr(scale) == "<Function scale(value: int, factor: int = 2) -> int, dylib 'math'>"
    assert scale(value=3) == 6
    assert scale(3, factor=5) == scale(factor=5, value=3) == scale(3, 5) == 15
    mix: Any = typed["mix"]
    assert mix(a=1) == mix(a=1, b=3, c=4) == 431
    assert mix(1, c=2, b=5) == 251
    assert mix.__doc__ == "A function of dylib 'math'."


def test_wrong_keywords(typed: tol.Dylib) -> None:
    scale: Any = typed["scale"]
    with pytest.raises(TypeError, match=r"scale\(\) got an unexpected keyword argument 'times'"):
        scale(1, times=2)
    with pytest.raises(TypeError, match=r"scale\(\) missing 1 required positional argument"):
        scale(factor=2)
    with pytest.raises(TypeError, match=r"scale\(\) got multiple values for argument 'value'"):
        scale(1, value=2)
    with pytest.raises(TypeError, match="Mismatched type on argument #1"):
        scale(1, factor="two")


def test_keywords_where_no_names_are_known(typed: tol.Dylib, session: tol.Session) -> None:
    plain: Any = tvm_ffi.get_global_func("testing.echo")
    add: Any = typed["add"]
    errors = []
    for function in (plain, add):
        with pytest.raises(TypeError) as caught:
            function(a=1)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]  # tvm-ffi's own


def test_a_documented_signature_that_the_types_contradict(typed: tol.Dylib) -> None:
    assert str(inspect.signature(typed["wrong"])) == "(arg0: int, /) -> int"


def test_of_an_object_without_metadata(session: tol.Session, compile: Compiler) -> None:
    add: Any = session.load(compile.cxx(TYPED, "-O1", "-fPIC"), name="math")["add"]
    assert str(inspect.signature(add)) == "(*args)"
    assert repr(add) == "<Function add(*args), dylib 'math'>"
    shown = pydoc.plain(pydoc.render_doc(add))
    assert "add = <Function add(*args), dylib 'math'>" in shown
    assert WITH in shown


def test_help_of_one_with_metadata(typed: tol.Dylib) -> None:
    shown = pydoc.plain(pydoc.render_doc(typed["add"]))
    assert "Add two integers." in shown
    assert "add(arg0: int, arg1: int, /) -> int" in shown
    assert WITH not in shown


def test_the_type_has_its_own_documentation(typed: tol.Dylib) -> None:
    kind = type(typed["add"])
    assert kind.__name__ == "Function"
    assert isinstance(kind.__doc__, str)
    assert kind.__doc__ != "Add two integers."


def test_a_signature_in_the_constants(session: tol.Session, compile: Compiler) -> None:
    kernel: Any = session.load(compile(OF_A_KERNEL), name="gpu")["kernel"]
    text = "(A: Tensor([n], float32), n: int32)"
    assert repr(kernel) == f"<Function kernel{text}, dylib 'gpu'>"
    assert list(inspect.signature(kernel).parameters) == ["A", "n"]
    assert kernel(n=3, A=10) == kernel(10, 3) == 7
    assert session["gpu"].get_function_metadata("kernel") is None


def test_nothing_is_asked_before_it_is_wanted(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    source = """
    #include "safe_call.h"
    #include "trace.h"
    EXPORT(add) { RETURN(INT(0) + INT(1)); }
    EXPORT(_doc_add) {
      trace(7);
      TVMFFIByteArray text = {"Add.", 4};
      return TVMFFIStringFromByteArray(&text, ret);
    }
    """
    dylib = session.load(compile(source))
    add: Any = dylib["add"]
    assert add(1, 2) == 3
    assert trace.take() == []
    assert add.__name__ == "add"
    assert trace.take() == []
    assert add.__doc__ == "Add."
    assert add.__doc__ == "Add."
    assert repr(add).startswith("<Function add(")
    assert trace.take() == [7]  # once


@pytest.mark.parametrize(
    "body",
    [
        'TVMFFIErrorSetRaisedFromCStr("ValueError", "no"); return -1;',
        "RETURN(5);",
        'TVMFFIByteArray t = {"[]", 2}; return TVMFFIStringFromByteArray(&t, ret);',
        'TVMFFIByteArray t = {"{", 1}; return TVMFFIStringFromByteArray(&t, ret);',
        'TVMFFIByteArray t = {"{\\"type_schema\\": 5}", 18};'
        " return TVMFFIStringFromByteArray(&t, ret);",
        'TVMFFIByteArray t = {"{\\"type_schema\\": \\"[1]\\"}", 22};'
        " return TVMFFIStringFromByteArray(&t, ret);",
    ],
    ids=["fails", "no text", "no object", "no JSON", "no schema", "no schema of a function"],
)
def test_metadata_that_is_none(session: tol.Session, compile: Compiler, body: str) -> None:
    source = '#include "safe_call.h"\nEXPORT(add) { RETURN(INT(0) + INT(1)); }\n'
    add: Any = session.load(compile(f"{source}EXPORT(_metadata_add) {{ {body} }}\n"))["add"]
    assert str(inspect.signature(add)) == "(*args)"
    assert repr(add).startswith("<Function add(*args), dylib")
    assert add(1, 2) == 3


def test_of_a_closed_dylib(typed: tol.Dylib) -> None:
    add: Any = typed["add"]
    asked: Any = typed["scale"]
    assert asked.__doc__ == "Multiply."
    typed.close()
    assert repr(add) == "<Function add, dylib 'math', closed>"
    assert add.__name__ == "add"
    assert str(inspect.signature(add)) == "(*args)"
    assert asked.__doc__ == "Multiply."
    with pytest.raises(tol.SessionClosedError):
        asked(value=1)


def test_two_names_of_one_function(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    EXPORT(first) { RETURN(1); }
    int __tvm_ffi_second(void*, const TVMFFIAny*, int32_t, TVMFFIAny*)
        __attribute__((alias("__tvm_ffi_first")));
    """
    dylib = session.load(compile(source))
    names: list[Any] = [dylib["first"], dylib["second"], dylib.module.second]
    assert [function.__name__ for function in names] == ["first", "second", "second"]


def test_wraps(typed: tol.Dylib) -> None:
    @functools.wraps(typed["add"])
    def wrapped(*arguments: int) -> object:
        return typed["add"](*arguments)

    assert wrapped.__name__ == "add"
    assert wrapped.__doc__ == "Add two integers."
    assert str(inspect.signature(wrapped)) == "(arg0: int, arg1: int, /) -> int"


def test_what_is_known_keeps_nothing_loaded(session: tol.Session, typed_object: Path) -> None:
    dylib = session.load(typed_object)
    function: Any = dylib["scale"]
    assert function(value=3) == 6
    assert function.__doc__
    gone = weakref.ref(dylib)
    del dylib, function
    gc.collect()
    assert gone() is None
    assert session.stats().dylibs == 0


def test_what_is_known_goes_with_the_function(typed: tol.Dylib) -> None:
    def signatures() -> int:
        gc.collect()
        return sum(type(thing) is inspect.Signature for thing in gc.get_objects())

    def ask() -> None:
        function: Any = typed["scale"]
        assert function(value=3) == 6
        assert function.__signature__ is function.__signature__

    ask()
    before = signatures()
    for _ in range(100):
        ask()
    assert signatures() == before


def test_metadata_and_documentation_of_a_dylib(typed: tol.Dylib) -> None:
    assert typed.get_function_metadata("add") == typed.module.get_function_metadata("add")
    assert typed.get_function_doc("add") == "Add two integers."
    assert typed.get_function_doc("cat") is None
    call: Callable[[str], object]
    for call in (typed.get_function_metadata, typed.get_function_doc):
        with pytest.raises(tol.FunctionNotFoundError, match="'ad'"):
            call("ad")
        with pytest.raises(TypeError, match="must be a str"):
            call(5)  # type: ignore[arg-type]
    typed.close()
    for call in (typed.get_function_metadata, typed.get_function_doc):
        with pytest.raises(tol.SessionClosedError):
            call("add")


def test_a_dylib_as_a_mapping(session: tol.Session, typed: tol.Dylib) -> None:
    assert len(typed) == 5
    assert typed.keys() == typed.functions == list(typed)
    assert {name: function(2, 3) for name, function in dict(typed).items() if name == "add"} == {
        "add": 5
    }
    empty = session.create_dylib()
    assert len(empty) == 0
    assert empty


def test_completion(session: tol.Session, typed: tol.Dylib, add_object: Path) -> None:
    assert {"add", "scale", "get_function"} <= set(dir(typed.module))
    assert typed._ipython_key_completions_() == typed.functions
    assert session._ipython_key_completions_() == ["math"]
    with tol.ObjectLoader().load(add_object) as loader:
        assert loader._ipython_key_completions_() == ["add"]
        module = loader.module
    assert "add" not in dir(module)
    typed.close()
    assert typed._ipython_key_completions_() == []


def test_html(session: tol.Session, typed: tol.Dylib) -> None:
    odd = session.create_dylib("<script>")
    shown = session._repr_html_()
    assert odd.name not in shown
    assert "&lt;script&gt;" in shown
    assert "<td>math</td><td>5</td><td>add, cat, mix, scale, wrong</td>" in shown
    assert "<td>scale</td>" in typed._repr_html_()
    typed.close()
    assert "closed" in typed._repr_html_()
    session.close()
    assert "closed" in session._repr_html_()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("f(a, b=1)", "(a, b=1)"),
        ("f(a: int, /, *, b=None) -> dict[str, int]", "(a: int, /, *, b=None) -> dict[str, int]"),
        ("f(a: list[int], *rest) -> None", "(a: list[int], *rest) -> None"),
        ("f()", "()"),
        ("f(a: Tensor([n0], float32))", "(a: Tensor([n0], float32))"),
        ("g(a)", None),
        ("f(a", None),
        ("f(a): pass\nx = 1", None),
        ("f(a, a)", None),
        ("f(a=print(1))", None),
        ("f" + "(" * 5000, None),
        ("f(\0)", None),
    ],
)
def test_signatures_as_text(text: str, shown: str | None) -> None:
    found = _signatures.parse(text, "f")
    assert (None if found is None else _signatures.shown(found)) == shown


def test_schemas_of_older_and_newer_releases() -> None:
    older = '{"type":"ffi.Function","args":[{"type":"int"},{"type":"bool"}]}'
    newer = older.replace(
        '"args":[{"type":"int"},{"type":"bool"}]',
        '"named_args":{"return":[{"type":"int"}],"params":[{"type":"bool"}]}',
    )
    assert newer != older
    for schema in (older, newer):
        found = _signatures.from_schema(schema)
        assert found is not None
        assert _signatures.shown(found) == "(arg0: bool, /) -> int"
    any_ = _signatures.from_schema(
        '{"type":"ffi.Function","named_args":{"return":[{"type":"int"}]}}'
    )
    assert any_ is not None
    assert _signatures.shown(any_) == "(*args) -> int"
    assert _signatures.from_schema('{"type":"ffi.Function"}') is None
