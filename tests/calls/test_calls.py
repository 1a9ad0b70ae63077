# SPDX-License-Identifier: Apache-2.0
"""The call itself: every kind of argument and result, compared with the dlopened build's.

Loaded functions pack common arguments themselves and leave the rest to `tvm_ffi.Function`;
whichever way a call takes, the callee must see the same and the caller must get the same.
"""

from __future__ import annotations

import collections
import ctypes
import datetime
import decimal
import enum
import fractions
import signal
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


class Octets(bytes):
    __slots__ = ()


class Real(float, enum.Enum):
    HALF = 0.5


class Plain(enum.Enum):
    A = "a"


class Flag(enum.IntFlag):
    ONE = 1


class Word(str, enum.Enum):
    HELLO = "hello"


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


class Convertible(tvm_ffi.ObjectConvertible):
    def asobject(self) -> Any:
        return ARRAY


class Unknown:
    pass


ARRAY: Any = tvm_ffi.convert([4, 5])


def with_method(name: str, value: object) -> Callable[[], object]:
    """What makes objects of one class with a method that returns the value, or raises it."""

    def method(_self: object) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    return type("Object", (), {name: method})


# The protocols that tvm-ffi asks objects for, with values that it takes and some that it may not.
VALUES: dict[str, list[object]] = {
    "__tvm_ffi_value__": [12, 2**70, "text" * 9, None, 1.5, [1, [2]], b"b" * 99, Unknown()],
    "__tvm_ffi_int__": [13, True, 2**70, 1.5, "7", "x", None],
    "__tvm_ffi_float__": [1.5, 2, "1.5", None],
    "__tvm_ffi_opaque_ptr__": [4096, 0, -1, 2**64, None],
    "__tvm_ffi_object__": [ARRAY, 5],
    "__cuda_stream__": [(0, 4096), (0, -1), None, 7],
    "__dlpack_device__": [(1, 0), (2, 3), ("cpu", 0), None],
    "__dlpack_data_type__": [(0, 32, 1), (2, 16, 4), ("float", 32, 1), None],
    "__dlpack__": [None, 5],
    "__int__": [5],
    "__float__": [5.5],
    "__index__": [5],
    "__call__": [5],
}
PROTOCOLS = {
    f"{name} {number}": with_method(name, value)
    for name, values in VALUES.items()
    for number, value in enumerate([*values, KeyError("raised"), OverflowError("raised")])
}


ARGUMENTS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "zero": lambda: 0,
    "int": lambda: -12345678901,
    "small negative int": lambda: -5,
    "largest of one digit": lambda: 2**30 - 1,
    "negative of one digit": lambda: 1 - 2**30,
    "smallest of two digits": lambda: 2**30,
    "negative of two digits": lambda: -(2**30),
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
    "null pointer": lambda: ctypes.c_void_p(),
    "pointer of a type": lambda: ctypes.pointer(ctypes.c_int(5)),
    "number of ctypes": lambda: ctypes.c_int(5),
    "opaque object": Unknown,
    "exception": lambda: ValueError("x"),
    "exception of no type of tvm-ffi's": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "no"),
    "exception that ends": lambda: KeyboardInterrupt(),
    "ffi error": lambda: tvm_ffi.core.Error("ValueError", "message", ""),
    "convertible": Convertible,
    "enum of float": lambda: Real.HALF,
    "flag": lambda: Flag.ONE | Flag(8),
    "enum of str": lambda: Word.HELLO,
    "plain enum": lambda: Plain.A,
    "decimal": lambda: decimal.Decimal("1.5"),
    "complex": lambda: 1 + 2j,
    "ellipsis": lambda: ...,
    "type": lambda: int,
    "range": lambda: range(3),
    "set": lambda: {1},
    "generator": lambda: (number for number in range(3)),
    "date": lambda: datetime.date(2020, 1, 1),
    "named tuple": lambda: Point(1, "two"),
    "ordered dict": lambda: collections.OrderedDict(a=1),
    "dict of other keys": lambda: {1: 2, None: "x", (1, 2): [3]},
    "deep": lambda: [[[[{"a": [{"b": (None, 2**70, Number.SEVEN, numpy.int8(3))}]}]]]],
    "empty list": list,
    "empty dict": dict,
    "list of functions": lambda: [len, tvm_ffi.convert(len)],
    "ffi list": lambda: tvm_ffi.List([1, "two"]),
    "ffi dict": lambda: tvm_ffi.Dict({"a": [1]}),
    "ffi bytes": lambda: tvm_ffi.core.Bytes(b"bytes that are long enough"),
    "subclass of bytes": lambda: Octets(b"octets"),
    "memory view": lambda: memoryview(b"bytes"),
    "data type of tvm-ffi's core": lambda: tvm_ffi.core.DataType("int8"),
    "vector type": lambda: tvm_ffi.dtype("float16x4"),
    "numpy type": lambda: numpy.float32,
    "numpy dtype without a counterpart": lambda: numpy.dtype("datetime64[s]"),
    "device of cuda": lambda: tvm_ffi.device("cuda", 3),
    "module": lambda: tvm_ffi.system_lib(),
    **{
        f"numpy {name}": lambda name=name: numpy.dtype(name).type(1)  # type: ignore[misc]
        for name in ("int8", "uint64", "float16", "float64", "longdouble", "complex64")
    },
    **PROTOCOLS,
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


# What `give` returns, by the number it is called with.
RESULTS = """
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/dict.h>
#include <tvm/ffi/container/list.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
#include <csignal>
namespace ffi = tvm::ffi;
static TVMFFIAny Raw(int type_index, int64_t bits) {
  TVMFFIAny raw{};
  raw.type_index = type_index;
  raw.v_int64 = bits;
  return raw;
}
static ffi::Any Give(int64_t number) {
  switch (number) {
    case 0: return nullptr;
    case 1: return true;
    case 2: return int64_t{-1} << 63;
    case 3: return 0.1;
    case 4: return ffi::String("");
    case 5: return ffi::String("seven77");
    case 6: return ffi::String("eight888");
    case 7: return ffi::String("\\xff\\xfe");
    case 8: return ffi::String("\\xff is not what UTF-8 has");
    case 9: return ffi::Bytes(std::string("\\0\\xff", 2));
    case 10: return ffi::Bytes(std::string(100, '\\xff'));
    case 11: return reinterpret_cast<void*>(4096);
    case 12: return static_cast<void*>(nullptr);
    case 13: return DLDataType{kDLFloat, 16, 4};
    case 14: return DLDevice{kDLCUDA, 3};
    case 15: return ffi::Shape({1, 2});
    case 16: return ffi::Error("KeyError", "message", "backtrace");
    case 17: return ffi::Function::FromTyped([](int64_t x) { return x + 1; });
    case 18: return ffi::Array<ffi::Any>{1, ffi::String("a long string in it"), nullptr};
    case 19: return ffi::Map<ffi::String, ffi::Any>{{"a", 1}};
    case 20: return ffi::List<ffi::Any>{1};
    case 21: return ffi::Dict<ffi::String, ffi::Any>{{"a", 1}};
    case 22: return ffi::Array<ffi::Any>{};
    case 23: return int64_t{256};
    case 24: return int64_t{1} << 40;
    case 25: return false;
    default: TVM_FFI_THROW(IndexError) << "no result " << number;
  }
  TVM_FFI_UNREACHABLE();
}
static void Fail(ffi::String kind) { throw ffi::Error(kind, "message of " + kind, ""); }
static void CallBack(ffi::Function function) { function(); }
static void Interrupted() {
  std::raise(SIGINT);
  if (TVMFFIEnvCheckSignals() != 0) throw ffi::EnvErrorAlreadySet();
}
extern "C" {
TVM_FFI_DLL_EXPORT int __tvm_ffi_raw(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  *result = Raw(args[0].v_int64, args[1].v_int64);
  return 0;
}
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(give, Give);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fail, Fail);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_back, CallBack);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(interrupted, Interrupted);
"""


@pytest.fixture(scope="module")
def results(compile: Compiler) -> dict[str, Pair]:
    path = compile.cxx(RESULTS, "-O2", "-fPIC")
    module, dylib = compile.dlopen(path), tol.Session().load(path)
    names = ("give", "fail", "call_back", "interrupted", "raw")
    return {name: Pair(module, dylib, name) for name in names}


@pytest.mark.parametrize("release_gil", [True, False])
@pytest.mark.parametrize("number", range(27))
def test_every_kind_of_result(results: dict[str, Pair], number: int, release_gil: bool) -> None:
    pair = results["give"]
    pair.loaded.release_gil = pair.dlopened.release_gil = release_gil
    assert outcome(pair.loaded, number) == outcome(pair.dlopened, number)


# Those that hold no object; some are refused as results, or not known to tvm-ffi.
@pytest.mark.parametrize("type_index", [0, 1, 2, 3, 4, 8, 9, 10, 13, 50, -1, -2])
def test_results_of_any_type_index(results: dict[str, Pair], type_index: int) -> None:
    for bits in (0, 1, -1) if type_index <= 3 else (0,):
        expected = outcome(results["raw"].dlopened, type_index, bits)
        assert outcome(results["raw"].loaded, type_index, bits) == expected


@pytest.mark.parametrize(
    "kind", ["ValueError", "TypeError", "KeyError", "IndexError", "MemoryError", "NoSuchKind", ""]
)
def test_every_kind_of_error(results: dict[str, Pair], kind: str) -> None:
    expected = outcome(results["fail"].dlopened, kind)
    assert issubclass(expected[0], Exception)
    assert outcome(results["fail"].loaded, kind) == expected


def test_an_exception_of_a_callback_comes_through(results: dict[str, Pair]) -> None:
    class OwnError(Exception):
        pass

    def raise_it(error: Exception) -> Callable[[], None]:
        def callback() -> None:
            raise error from KeyError("cause")

        return callback

    for error in (OwnError("one", 2), ValueError("value"), OSError(2, "text", "path"), KeyError()):
        expected = outcome(results["call_back"].dlopened, raise_it(error))
        assert issubclass(expected[0], Exception)
        assert outcome(results["call_back"].loaded, raise_it(error)) == expected


@pytest.mark.parametrize("release_gil", [True, False])
def test_a_signal_during_the_call(results: dict[str, Pair], release_gil: bool) -> None:
    # It is ignored where the tests run in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for function in (results["interrupted"].dlopened, results["interrupted"].loaded):
            function.release_gil = release_gil
            with pytest.raises(KeyboardInterrupt):
                function()
    finally:
        signal.signal(signal.SIGINT, before)


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
