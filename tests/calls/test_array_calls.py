# SPDX-License-Identifier: Apache-2.0
"""Calls with arrays of other libraries: what the callee and the caller get, compared with dlopen's.

NumPy's arrays, and the arrays of libraries with DLPack's C exchange API (PyTorch's tensors), are
packed without `tvm_ffi.Function`.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy
import pytest
import tvm_ffi
from tvm_ffi import core, libinfo

import tvm_ffi_object_loader as tol
from compilation import Compiler
from outcomes import Pair, outcome
from releases import needs

CALLEE = """
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
namespace ffi = tvm::ffi;
static void Describe(ffi::PackedArgs args, ffi::Any* result) {
  ffi::Array<ffi::Any> seen;
  for (int i = 0; i < args.size(); ++i) {
    seen.push_back(static_cast<int64_t>(args[i].type_index()));
    auto tensor = args[i].as<ffi::Tensor>();
    if (!tensor) continue;
    DLDataType dtype = (*tensor).dtype();
    for (int part : {int{dtype.code}, int{dtype.bits}, int{dtype.lanes}}) seen.push_back(part);
    seen.push_back((*tensor).device());
    seen.push_back(ffi::Shape((*tensor).shape()));
    seen.push_back(ffi::Shape((*tensor).strides()));
  }
  *result = seen;
}
static void Pick(ffi::PackedArgs args, ffi::Any* result) {
  *result = args[args[0].cast<int>()];
}
static int64_t Address(ffi::Tensor tensor) {
  return reinterpret_cast<int64_t>(tensor.data_ptr()) + tensor.byte_offset();
}
static int64_t Fill(ffi::Tensor tensor, double value) {
  for (int64_t i = 0; i < tensor.numel(); ++i) static_cast<double*>(tensor.data_ptr())[i] = value;
  return tensor.numel();
}
static ffi::Tensor Allocate(ffi::AnyView, int64_t size) {
  auto tensor = ffi::Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, ffi::Shape({size}),
                                          {kDLFloat, 64, 1}, {kDLCPU, 0});
  Fill(tensor, 1.5);
  return tensor;
}
static int64_t Stream(ffi::AnyView, int device) {
  return reinterpret_cast<int64_t>(TVMFFIEnvGetStream(kDLCUDA, device));
}
static void Streams(ffi::PackedArgs, ffi::Any* result) {
  *result = ffi::Array<int64_t>{Stream(nullptr, 0), Stream(nullptr, 1)};
}
static void Throw(ffi::AnyView) { TVM_FFI_THROW(IndexError) << "thrown"; }
#define PACKED(NAME, FUNCTION)                                                      \\
  extern "C" TVM_FFI_DLL_EXPORT int __tvm_ffi_##NAME(void*, const TVMFFIAny* args,  \\
                                                     int32_t n, TVMFFIAny* result) { \\
    TVM_FFI_SAFE_CALL_BEGIN();                                                      \\
    FUNCTION(ffi::PackedArgs(reinterpret_cast<const ffi::AnyView*>(args), n),       \\
             reinterpret_cast<ffi::Any*>(result));                                  \\
    TVM_FFI_SAFE_CALL_END();                                                        \\
  }
PACKED(describe, Describe)
PACKED(pick, Pick)
PACKED(streams, Streams)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(address, Address);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fill, Fill);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(allocate, Allocate);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(stream, Stream);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raises, Throw);
"""
FUNCTIONS = ("describe", "pick", "address", "fill", "allocate", "stream", "streams", "raises")


@pytest.fixture(scope="module")
def pairs(compile: Compiler) -> dict[str, Pair]:
    path = compile.cxx(CALLEE, "-O2", "-fPIC")
    module, dylib = compile.dlopen(path), tol.Session().load(path)
    return {name: Pair(module, dylib, name) for name in FUNCTIONS}


class Subclass(numpy.ndarray[Any, Any]):
    pass


class WithDLPack:
    def __init__(self) -> None:
        self.array = numpy.arange(3)

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def read_only() -> Any:
    array = numpy.arange(4)
    array.flags.writeable = False
    return array


def in_framework(values: Any = (1, 2, 3)) -> Any:
    """An array with tvm-ffi's own exchange API, which makes a `tvm_ffi.Tensor` of a tensor."""
    return core.DLTensorTestWrapper(tvm_ffi.from_dlpack(numpy.array(values)))


class Unknown:
    pass


class ForeignArray:
    def __init__(self, tensor: tvm_ffi.Tensor) -> None:
        self.tensor = tensor


class Framework:
    """An array library with an exchange API made here.

    It says that its arrays are on `device`, on which it works on `stream`.
    """

    class Api(ctypes.Structure):
        _fields_: ClassVar = [
            ("version", ctypes.c_uint32 * 2),
            ("previous", ctypes.c_void_p),
            *(
                (name, ctypes.c_void_p)
                for name in ("allocate", "export", "adopt", "view", "stream")
            ),
        ]

    def __init__(
        self,
        name: str,
        device: tuple[int, int] = (1, 0),
        stream: int = 0,
        gives_arrays: bool = False,
    ) -> None:
        tvm = ctypes.PyDLL(libinfo.find_libtvm_ffi())
        pointer = ctypes.c_void_p
        export_type = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, pointer)
        adopt_type = ctypes.PYFUNCTYPE(ctypes.c_int, pointer, pointer)
        stream_type = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int32, pointer)

        def export(array: ForeignArray, out: int) -> int:
            handle = pointer(array.tensor.__chandle__())
            code: int = tvm.TVMFFITensorToDLPackVersioned(handle, pointer(out))
            managed = pointer.from_address(out).value
            assert managed is not None
            (ctypes.c_int32 * 2).from_address(managed + 40)[:] = list(device)
            return code

        def adopt(managed: int, out: int) -> int:
            capsule = ctypes.pythonapi.PyCapsule_New
            capsule.restype = ctypes.py_object
            tensor = tvm_ffi.from_dlpack(capsule(pointer(managed), b"dltensor_versioned", None))
            array = self.Array(tensor)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(array))
            pointer.from_address(out).value = id(array)
            return 0

        def current_stream(_device_type: int, _device_id: int, out: int) -> int:
            pointer.from_address(out).value = stream
            return 0

        self.Array: Any = types.new_class(name, (ForeignArray,))  # kept for ever, with its API
        self.kept = (export_type(export), adopt_type(adopt), stream_type(current_stream))
        addresses = [ctypes.cast(function, pointer).value for function in self.kept]
        version = (ctypes.c_uint32 * 2)(*core.__dlpack_version__)
        adopts = addresses[1] if gives_arrays else None
        self.api = self.Api(version, None, None, addresses[0], adopts, None, addresses[2])
        for attribute, value in (
            ("__dlpack_c_exchange_api__", ctypes.addressof(self.api)),
            ("framework", self),
        ):
            setattr(self.Array, attribute, value)

    def array(self) -> Any:
        return self.Array(tvm_ffi.from_dlpack(numpy.arange(3)))


ARRAYS: dict[str, Callable[[], object]] = {
    **{
        name: lambda name=name: numpy.arange(6).astype(name).reshape(2, 3)  # type: ignore[misc]
        for name in ("bool", "int8", "uint16", "int64", "float16", "float32", "float64")
    },
    "complex": lambda: numpy.zeros(3, "complex64"),
    "scalar array": lambda: numpy.array(1.5),
    "empty": lambda: numpy.zeros((0, 4)),
    "many dimensions": lambda: numpy.zeros((1, 2, 1, 2, 1, 2)),
    "not contiguous": lambda: numpy.arange(24).reshape(4, 6)[::2, 1::3],
    "backwards": lambda: numpy.arange(6)[::-1],
    "transposed": lambda: numpy.arange(6).reshape(2, 3).T,
    "broadcast": lambda: numpy.broadcast_to(numpy.arange(3), (2, 3)),
    "read-only": read_only,
    "objects": lambda: numpy.array([None, 1], dtype=object),
    "strings": lambda: numpy.array(["a", "b"]),
    "structured": lambda: numpy.zeros(2, dtype="i4,f8"),
    "dates": lambda: numpy.zeros(2, dtype="datetime64[s]"),
    "other byte order": lambda: numpy.arange(3, dtype=">i4"),
    "long double": lambda: numpy.zeros(2, dtype="longdouble"),
    "unaligned": lambda: numpy.frombuffer(bytearray(17), dtype="u1")[1:].view("i8"),
    "subclass": lambda: numpy.arange(3).view(Subclass),
    "masked": lambda: numpy.ma.array([1, 2], mask=[True, False]),
    "record array": lambda: numpy.zeros(2, "i4,f8").view(numpy.recarray),
    "memory view": lambda: memoryview(b"bytes"),
    "object with __dlpack__": WithDLPack,
    "capsule": lambda: numpy.arange(3).__dlpack__(),
    "framework": in_framework,
    "list of arrays": lambda: [numpy.arange(2), numpy.arange(3)],
    "list of the framework's": lambda: [in_framework(), in_framework()],
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("release_gil", [True, False])
def test_every_kind_of_array(pairs: dict[str, Pair], kind: str, release_gil: bool) -> None:
    make = ARRAYS[kind]
    for pair in pairs.values():
        pair.loaded.release_gil = pair.dlopened.release_gil = release_gil
    for arguments in (
        lambda: (make(),),
        lambda: (make(), 1, "text", numpy.arange(2), make()),
        lambda: (in_framework(), make()),
        lambda: (make(), in_framework()),
        lambda: (make(), Unknown(), make()),
    ):
        expected = outcome(pairs["describe"].dlopened, *arguments())
        assert outcome(pairs["describe"].loaded, *arguments()) == expected
    for others in ((), (numpy.arange(2),), (in_framework(),)):
        expected = outcome(pairs["pick"].dlopened, 1, make(), *others)
        assert outcome(pairs["pick"].loaded, 1, make(), *others) == expected


def test_the_callee_works_on_the_array_itself(pairs: dict[str, Pair]) -> None:
    array = numpy.zeros(5)
    assert pairs["address"].loaded(array) == array.ctypes.data
    assert pairs["fill"].loaded(array, 2.5) == 5
    assert array.tolist() == [2.5] * 5
    part = array[2:]
    assert pairs["address"].loaded(part) == part.ctypes.data


def test_an_array_is_let_go_after_the_call(pairs: dict[str, Pair]) -> None:
    array = numpy.zeros(4)
    before = sys.getrefcount(array)
    for _ in range(3):
        pairs["describe"].loaded(array, array)
        outcome(pairs["raises"].loaded, array)
        outcome(pairs["describe"].loaded, array, read_only())
        outcome(pairs["address"].loaded, array, array)
    gc.collect()
    assert sys.getrefcount(array) == before
    kept = pairs["pick"].loaded(1, array)
    assert sys.getrefcount(array) > before
    array[:] = 7
    assert numpy.from_dlpack(kept).tolist() == [7, 7, 7, 7]
    del kept
    assert sys.getrefcount(array) == before


def test_an_array_that_is_returned_outlives_its_last_name(pairs: dict[str, Pair]) -> None:
    array = numpy.arange(3)
    gone = weakref.ref(array)
    kept = pairs["pick"].loaded(1, array)
    del array
    assert gone() is not None
    assert numpy.from_dlpack(kept).tolist() == [0, 1, 2]
    del kept
    assert gone() is None


@needs("containers that belong to a framework")
def test_a_container_gives_out_arrays_of_the_framework(pairs: dict[str, Pair]) -> None:
    framework = Framework("framework", gives_arrays=True)
    array = tvm_ffi.convert([tvm_ffi.from_dlpack(numpy.arange(2)), 5])
    for function in (pairs["pick"].dlopened, pairs["pick"].loaded):
        assert isinstance(function(1, array)[0], tvm_ffi.Tensor)
        given = function(1, array, framework.array())
        assert type(given[0]) is framework.Array
        assert given[1] == 5
        assert type(function(1, given)[0]) is framework.Array
        assert function(1, "a string of more than seven", framework.array())[0] == "a"


def test_a_tensor_returned_becomes_an_array_of_the_framework(pairs: dict[str, Pair]) -> None:
    framework = Framework("framework", gives_arrays=True)
    for function in (pairs["pick"].dlopened, pairs["pick"].loaded):
        result: Any = function(1, numpy.arange(4), framework.array())
        assert type(result) is framework.Array
        assert numpy.from_dlpack(result.tensor).tolist() == [0, 1, 2, 3]
    # The last of several frameworks has it.
    other = Framework("other", gives_arrays=True)
    for function in (pairs["pick"].dlopened, pairs["pick"].loaded):
        result = function(1, numpy.arange(4), framework.array(), other.array())
        assert type(result) is other.Array


def test_a_framework_that_takes_no_tensors_gets_tvm_ffis(pairs: dict[str, Pair]) -> None:
    framework = Framework("framework", gives_arrays=False)
    for function in (pairs["pick"].dlopened, pairs["pick"].loaded):
        assert type(function(1, framework.array())) is tvm_ffi.Tensor


def test_a_call_runs_on_the_stream_of_the_framework(pairs: dict[str, Pair]) -> None:
    framework = Framework("framework", device=(2, 0), stream=0x1000)
    second = Framework("second", device=(2, 1), stream=0x2000)
    in_memory = Framework("in memory", stream=0x3000)
    with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", 0), 0x4000):
        for function in (pairs["stream"].dlopened, pairs["stream"].loaded):
            assert function(None, 0) == 0x4000
            assert function(framework.array(), 0) == 0x1000
            assert function(None, 0) == 0x4000
            assert function(in_memory.array(), 0) == 0x4000
        for function in (pairs["describe"].dlopened, pairs["describe"].loaded):
            assert function(framework.array())[4] == tvm_ffi.device("cuda", 0)
    # The first one that is on a device has it.
    for function in (pairs["streams"].dlopened, pairs["streams"].loaded):
        assert list(function(in_memory.array(), framework.array(), second.array())) == [0x1000, 0]
        assert list(function(second.array(), framework.array())) == [0, 0x2000]
        assert list(function(second.array(), in_memory.array())) == [0, 0x2000]
        assert list(function(in_memory.array())) == [0, 0]
    for function in (pairs["raises"].dlopened, pairs["raises"].loaded):
        assert outcome(function, framework.array())[0] is IndexError
        assert list(pairs["streams"].loaded()) == [0, 0]


def test_what_tvm_ffi_prefers_to_the_exchange_api(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Framework("both")
    both.Array.__tvm_ffi_object__ = lambda _self: tvm_ffi.convert([1, 2])
    # Read when a type is seen for the first time.
    monkeypatch.setenv("TVM_FFI_SKIP_DLPACK_C_EXCHANGE_API", "1")
    skipped = Framework("skipped")
    not_a_table = Framework("not a table")
    not_a_table.Array.__dlpack_c_exchange_api__ = "text"
    expected = [outcome(pairs["describe"].dlopened, skipped.array())]
    assert outcome(pairs["describe"].loaded, skipped.array()) == expected[0]
    monkeypatch.undo()
    for framework in (both, skipped, not_a_table):
        expected.append(outcome(pairs["describe"].dlopened, framework.array()))
        assert outcome(pairs["describe"].loaded, framework.array()) == expected[-1]
    # An opaque object, an array, an opaque object, and an error.
    assert [str(seen)[:30] for _, seen in expected] == [
        "['74']",
        "['71']",
        "['74']",
        "Expect a dlpack_exchange_api f",
    ]


TENSORS = {
    **{
        dtype: f"torch.arange(6).to(torch.{dtype}).reshape(2, 3)"
        for dtype in ("bool", "uint8", "int64", "float16", "bfloat16", "float32", "complex64")
    },
    "float8": "torch.zeros(4, dtype=torch.float8_e4m3fn)",
    "scalar": "torch.tensor(1.5)",
    "empty": "torch.zeros(0, 3)",
    "not contiguous": "torch.arange(24).reshape(4, 6)[::2, 1::3]",
    "expanded": "torch.arange(3).expand(2, 3)",
    "requires gradient": "torch.zeros(3, requires_grad=True)",
    "of a graph": "torch.zeros(3, requires_grad=True) * 2",
    "detached": "torch.zeros(3, requires_grad=True).detach()",
    "parameter": "torch.nn.Parameter(torch.zeros(3))",
    "conjugate": "torch.zeros(3, dtype=torch.complex64).conj()",
    "negative": "torch.zeros(3, dtype=torch.complex64).conj().imag",
    "sparse": "torch.eye(3).to_sparse()",
    "quantized": "torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)",
    "meta": "torch.zeros(3, device='meta')",
    "list": "[torch.zeros(2), torch.ones(3)]",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
def test_every_kind_of_tensor(pairs: dict[str, Pair], kind: str) -> None:
    torch = pytest.importorskip("torch")

    def make() -> object:
        try:
            return eval(TENSORS[kind], {"torch": torch})
        except (AttributeError, RuntimeError) as error:
            pytest.skip(f"not in this PyTorch: {error}")

    for arguments in (
        lambda: (make(),),
        lambda: (1, make(), numpy.arange(2), make()),
        lambda: (in_framework(), make()),
        lambda: (make(), Unknown(), in_framework()),
    ):
        expected = outcome(pairs["describe"].dlopened, *arguments())
        assert outcome(pairs["describe"].loaded, *arguments()) == expected
    for others in ((), (in_framework(),)):
        expected = outcome(pairs["pick"].dlopened, 1, make(), *others)
        assert outcome(pairs["pick"].loaded, 1, make(), *others) == expected


def test_tensors_are_let_go_and_returned_as_such(pairs: dict[str, Pair]) -> None:
    torch = pytest.importorskip("torch")
    without_allocator = outcome(pairs["allocate"].dlopened, None, 2)
    assert issubclass(without_allocator[0], Exception)
    tensor = torch.zeros(4, dtype=torch.float64)
    before = sys.getrefcount(tensor)
    for name, pair in pairs.items():
        expected = outcome(pair.dlopened, tensor, 3)
        assert outcome(pair.loaded, tensor, 3) == expected, name
    assert tensor.tolist() == [3.0] * 4
    returned = pairs["pick"].loaded(1, tensor)
    assert type(returned) is torch.Tensor
    assert returned.data_ptr() == tensor.data_ptr() == pairs["address"].loaded(tensor)
    del returned
    gone = weakref.ref(tensor)
    assert sys.getrefcount(tensor) == before
    allocated = pairs["allocate"].loaded(tensor, 2)
    assert type(allocated) is torch.Tensor
    assert allocated.tolist() == [1.5, 1.5]
    # The allocator is the framework's for that call only.
    assert outcome(pairs["allocate"].loaded, None, 2) == without_allocator
    del tensor
    assert gone() is None
