# SPDX-License-Identifier: Apache-2.0
"""The call itself: every kind of argument and result, compared with the dlopened build's.

Loaded functions pack common arguments themselves and leave the rest to `tvm_ffi.Function`;
whichever way a call takes, the callee must see the same and the caller must get the same.
"""

from __future__ import annotations

import ctypes
import enum
import fractions
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from outcomes import Pair, outcome

# `describe` gives what the callee sees of each argument: the type index, and the bits of values.
CALLEE = """
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
namespace ffi = tvm::ffi;
static void Describe(ffi::PackedArgs args, ffi::Any* result) {
  ffi::Array<ffi::Any> seen;
  for (int i = 0; i < args.size(); ++i) {
    const TVMFFIAny* raw = reinterpret_cast<const TVMFFIAny*>(args.data()) + i;
    seen.push_back(static_cast<int64_t>(raw->type_index));
    seen.push_back(static_cast<int64_t>(raw->zero_padding));
    bool is_object = raw->type_index >= kTVMFFIStaticObjectBegin;
    bool is_pointer = raw->type_index == kTVMFFIDLTensorPtr ||
                      raw->type_index == kTVMFFIObjectRValueRef;
    seen.push_back(is_object || is_pointer ? int64_t{0} : raw->v_int64);
    if (auto text = args[i].as<ffi::String>()) seen.push_back(*text);
    if (auto bytes = args[i].as<ffi::Bytes>()) seen.push_back(*bytes);
  }
  *result = seen;
}
static void Echo(ffi::PackedArgs args, ffi::Any* result) {
  if (args.size() > 0) *result = args[0];
}
static int64_t Typed(int64_t number, double real, bool flag, ffi::String text) {
  if (text == "raise") TVM_FFI_THROW(ValueError) << "told to: " << number;
  return number + static_cast<int64_t>(real) + flag + static_cast<int64_t>(text.size());
}
extern "C" {
TVM_FFI_DLL_EXPORT int __tvm_ffi_describe(void*, const TVMFFIAny* args, int32_t n,
                                          TVMFFIAny* result) {
  TVM_FFI_SAFE_CALL_BEGIN();
  Describe(ffi::PackedArgs(reinterpret_cast<const ffi::AnyView*>(args), n),
           reinterpret_cast<ffi::Any*>(result));
  TVM_FFI_SAFE_CALL_END();
}
TVM_FFI_DLL_EXPORT int __tvm_ffi_echo(void*, const TVMFFIAny* args, int32_t n, TVMFFIAny* result) {
  TVM_FFI_SAFE_CALL_BEGIN();
  Echo(ffi::PackedArgs(reinterpret_cast<const ffi::AnyView*>(args), n),
       reinterpret_cast<ffi::Any*>(result));
  TVM_FFI_SAFE_CALL_END();
}
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(typed, Typed);
"""


class SmallInt(int):
    pass


class SmallFloat(float):
    pass


class Text(str):
    __slots__ = ()


class Number(enum.IntEnum):
    SEVEN = 7


class Value:
    def __tvm_ffi_value__(self) -> object:
        return 12


class IntLike:
    def __tvm_ffi_int__(self) -> int:
        return 13


class FloatLike:
    def __tvm_ffi_float__(self) -> float:
        return 1.5


class Opaque:
    def __tvm_ffi_opaque_ptr__(self) -> int:
        return 4096


class Unknown:
    pass


ARGUMENTS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "zero": lambda: 0,
    "int": lambda: -12345678901,
    "largest int": lambda: 2**63 - 1,
    "smallest int": lambda: -(2**63),
    "too large int": lambda: 2**63,
    "huge int": lambda: 3**200,
    "huge negative int": lambda: -(3**200),
    "true": lambda: True,
    "false": lambda: False,
    "float": lambda: 1.25,
    "nan": lambda: float("nan"),
    "minus infinity": lambda: float("-inf"),
    "subclass of int": lambda: SmallInt(5),
    "subclass of float": lambda: SmallFloat(5.5),
    "enum": lambda: Number.SEVEN,
    "fraction": lambda: fractions.Fraction(3, 4),
    "numpy int": lambda: numpy.int64(9),
    "numpy float": lambda: numpy.float32(0.5),
    "numpy bool": lambda: numpy.bool_(True),
    "empty str": lambda: "",
    "short str": lambda: "seven77",
    "eight bytes of str": lambda: "eight888",
    "long str": lambda: "long " * 100,
    "str with zero": lambda: "a\0b\0c\0d\0e\0f",
    "unicode": lambda: "grüße \U0001f600 and more of it",
    "short unicode": lambda: "ü",
    "lone surrogate": lambda: "\ud800",
    "subclass of str": lambda: Text("text"),
    "empty bytes": lambda: b"",
    "short bytes": lambda: b"seven77",
    "long bytes": lambda: b"\0\xff" * 100,
    "bytearray": lambda: bytearray(b"array of bytes"),
    "ffi string": lambda: tvm_ffi.core.String("a string that is long enough"),
    "tensor": lambda: tvm_ffi.from_dlpack(numpy.arange(6, dtype="float32")),
    "numpy array": lambda: numpy.arange(6, dtype="float32"),
    "shape": lambda: tvm_ffi.Shape((1, 2, 3)),
    "dtype": lambda: tvm_ffi.dtype("float32"),
    "numpy dtype": lambda: numpy.dtype("int8"),
    "device": lambda: tvm_ffi.device("cpu", 0),
    "list": lambda: [1, "two", 3.0, None],
    "tuple": lambda: (1, ("nested", b"bytes")),
    "dict": lambda: {"a": 1, "b": [2]},
    "ffi array": lambda: tvm_ffi.convert([1, 2, 3]),
    "ffi map": lambda: tvm_ffi.convert({"k": "v"}),
    "ffi function": lambda: tvm_ffi.convert(len),
    "callable": lambda: len,
    "void pointer": lambda: ctypes.c_void_p(4096),
    "ffi value protocol": Value,
    "int protocol": IntLike,
    "float protocol": FloatLike,
    "opaque pointer protocol": Opaque,
    "opaque object": Unknown,
    "exception": lambda: ValueError("x"),
    "moved": lambda: tvm_ffi.convert([1, 2])._move(),
}


@pytest.fixture(scope="module")
def pairs(compile: Compiler) -> dict[str, Pair]:
    path = compile.cxx(CALLEE, "-O2", "-fPIC")
    module, dylib = compile.dlopen(path), tol.Session().load(path)
    return {name: Pair(module, dylib, name) for name in ("describe", "echo", "typed")}


@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("name", ["describe", "echo"])
@pytest.mark.parametrize("release_gil", [True, False])
def test_every_kind_of_argument(
    pairs: dict[str, Pair], name: str, kind: str, release_gil: bool
) -> None:
    pair = pairs[name]
    pair.loaded.release_gil = pair.dlopened.release_gil = release_gil
    make = ARGUMENTS[kind]
    assert outcome(pair.loaded, make()) == outcome(pair.dlopened, make())
    # Beside arguments that are packed without a detour, before and after.
    assert outcome(pair.loaded, 1, "two", make(), 3.5) == outcome(
        pair.dlopened, 1, "two", make(), 3.5
    )


def test_any_number_of_arguments(pairs: dict[str, Pair]) -> None:
    for count in (0, 1, 2, 15, 16, 17, 18, 100):
        for arguments in (range(count), [str(i) * 9 for i in range(count)]):
            expected = outcome(pairs["describe"].dlopened, *arguments)
            assert outcome(pairs["describe"].loaded, *arguments) == expected


def test_keywords_are_refused(pairs: dict[str, Pair]) -> None:
    for keywords in ({"b": 2}, {"b": 2, "c": 3}):
        expected = outcome(pairs["describe"].dlopened, 1, **keywords)
        assert expected[0] is TypeError
        assert outcome(pairs["describe"].loaded, 1, **keywords) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        (1, 2.0, True, "text"),
        (True, 2, 1, "text"),
        (1, 2.0, True),
        (1, 2.0, True, "text", 5),
        ("1", 2.0, True, "text"),
        (1.5, 2.0, True, "text"),
        (2**64, 2.0, True, "text"),
        (3, 2.0, False, "raise"),
        (None, None, None, None),
    ],
)
def test_conversions_and_errors_of_the_callee(
    pairs: dict[str, Pair], arguments: tuple[object, ...]
) -> None:
    expected = outcome(pairs["typed"].dlopened, *arguments)
    assert outcome(pairs["typed"].loaded, *arguments) == expected


def test_a_function_is_an_ffi_object(pairs: dict[str, Pair]) -> None:
    echo = pairs["echo"].loaded
    assert isinstance(echo, tvm_ffi.Function)
    assert echo.same_as(echo(echo))
    assert echo(echo)(7) == 7
    assert tvm_ffi.convert(lambda function: function(41))(echo) == 41
    assert tvm_ffi.convert([echo])[0](7) == 7


def test_release_gil_is_a_property_of_each_function(session: tol.Session, add_object: Path) -> None:
    first, second = (session.load(add_object)["add"] for _ in range(2))
    default = first.release_gil
    first.release_gil = not default
    assert (first.release_gil, second.release_gil) == (not default, default)
    assert first(1, 2) == second(1, 2) == 3


def test_objects_passed_and_returned_are_counted(pairs: dict[str, Pair]) -> None:
    echo = pairs["echo"].loaded
    dropped: list[int] = []

    class Tracked:
        def __del__(self) -> None:
            dropped.append(1)

    def make() -> tvm_ffi.Object:
        tracked = Tracked()
        array: tvm_ffi.Object = tvm_ffi.convert([tvm_ffi.convert(lambda: tracked)])
        return array

    held = make()
    for _ in range(3):
        assert echo(held).same_as(held)
    assert not dropped
    del held
    assert dropped == [1]


def test_a_moved_function_is_empty(
    session: tol.Session, add_object: Path, compile: Compiler
) -> None:
    function: Any = session.load(add_object)["add"]
    taken = tvm_ffi.Function.__new__(tvm_ffi.Function)
    taken.__move_handle_from__(function)
    assert taken(1, 2) == 3
    assert function.__chandle__() == 0
    function.__move_handle_from__(compile.dlopen(add_object).get_function("add"))
    assert function(3, 4) == 7
