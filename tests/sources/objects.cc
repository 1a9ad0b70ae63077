// SPDX-License-Identifier: Apache-2.0
// Returns objects of every kind whose deleters are in this code.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/dict.h>
#include <tvm/ffi/container/list.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/ffi/string.h>

#include <string>

#include "trace.h"

#if !__has_include(<tvm/ffi/base_detail.h>)  // so it was called until 0.1.15
namespace tvm::ffi {
namespace detail = details;
}
#endif

namespace ffi = tvm::ffi;

struct AtUnload {
  ~AtUnload() { trace(-1); }
};
static AtUnload at_unload;

struct Memory {
  void AllocData(DLTensor* tensor) {
    tensor->data = new int64_t[tensor->shape[0]];
    for (int64_t i = 0; i < tensor->shape[0]; ++i) static_cast<int64_t*>(tensor->data)[i] = i;
  }
  void FreeData(DLTensor* tensor) {
    trace(-100);
    delete[] static_cast<int64_t*>(tensor->data);
  }
};

static std::string Long(int64_t n) {
  return "a string that is too long to be a value " + std::to_string(n);
}

ffi::String Text(int64_t n) { return Long(n); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(text, Text);

ffi::Bytes Raw(int64_t n) { return ffi::Bytes(Long(n)); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raw, Raw);

ffi::Array<ffi::String> Texts(int64_t n) { return {Text(n), Text(n + 1)}; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(array, Texts);

ffi::List<ffi::Any> ListOf(int64_t n) { return {Text(n), ffi::Array<ffi::Any>{Text(n + 1), 3}}; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(list, ListOf);

ffi::Map<ffi::String, ffi::Any> MapOf(int64_t n) {
  return {{Text(n), Texts(n)}, {"short", Text(n + 7)}};
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(map, MapOf);

ffi::Dict<ffi::String, ffi::Any> DictOf(int64_t n) { return {{Text(n), Texts(n)}}; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(dict, DictOf);

ffi::Tensor TensorOf(int64_t n) {
  return ffi::Tensor::FromNDAlloc(Memory(), {n}, DLDataType{kDLInt, 64, 1}, DLDevice{kDLCPU, 0});
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(tensor, TensorOf);

ffi::Shape ShapeOf(int64_t n) { return ffi::Shape({n, n + 1, n + 2}); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(shape, ShapeOf);

static ffi::Function Adder(int64_t n) {
  return ffi::Function::FromTyped([n](int64_t m) { return Text(n + m); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(function, Adder);

static ffi::Function Nested(int64_t n) {
  return ffi::Function::FromTyped([n](int64_t m) { return Adder(n + m); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(nested, Nested);

static ffi::Function Thrower(int64_t n) {
  return ffi::Function::FromTyped(
      [n](int64_t) -> int64_t { TVM_FFI_THROW(ValueError) << Long(n); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(thrower, Thrower);

int64_t Fail(int64_t n) { TVM_FFI_THROW(ValueError) << Long(n); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fail, Fail);

int64_t Register(ffi::String name) {
  ffi::Function::SetGlobal(std::string(name), Adder(1000), true);
  return 0;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(register, Register);

static void DeleteManaged(DLManagedTensor* tensor) {
  trace(-200);
  delete[] static_cast<int64_t*>(tensor->dl_tensor.data);
  delete[] tensor->dl_tensor.shape;
  delete tensor;
}

// As C code makes a tensor.
ffi::Any Managed(int64_t n) {
  auto* tensor = new DLManagedTensor();
  tensor->dl_tensor.data = new int64_t[n]();
  tensor->dl_tensor.device = {kDLCPU, 0};
  tensor->dl_tensor.ndim = 1;
  tensor->dl_tensor.dtype = {kDLInt, 64, 1};
  tensor->dl_tensor.shape = new int64_t[1]{n};
  tensor->deleter = DeleteManaged;
  TVMFFIObjectHandle handle;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFITensorFromDLPack(tensor, 0, 0, &handle));
  return ffi::detail::ObjectUnsafe::ObjectRefFromObjectPtr<ffi::ObjectRef>(
      ffi::detail::ObjectUnsafe::ObjectPtrFromOwned<ffi::Object>(
          static_cast<TVMFFIObject*>(handle)));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(managed, Managed);

static int AddC(void* self, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = *static_cast<int64_t*>(self) + args[0].v_int64;
  return 0;
}
static void DeleteC(void* self) {
  trace(-300);
  delete static_cast<int64_t*>(self);
}
ffi::Any FunctionOfC(int64_t n) {
  TVMFFIObjectHandle handle;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionCreate(new int64_t(n), AddC, DeleteC, &handle));
  return ffi::detail::ObjectUnsafe::ObjectRefFromObjectPtr<ffi::ObjectRef>(
      ffi::detail::ObjectUnsafe::ObjectPtrFromOwned<ffi::Object>(
          static_cast<TVMFFIObject*>(handle)));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(c_function, FunctionOfC);

class PairObj : public ffi::Object {
 public:
  ffi::String first;
  ffi::Array<ffi::String> second;
  explicit PairObj(int64_t n) : first(Text(n)), second(Texts(n)) {}
  explicit PairObj(ffi::UnsafeInit) {}
  ~PairObj() { trace(-400); }
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL(TYPE_KEY, PairObj, ffi::Object);
};

ffi::Any PairOf(int64_t n) { return ffi::ObjectRef(ffi::make_object<PairObj>(n)); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(pair, PairOf);

// Only when it is asked for: tvm-ffi keeps what it is told of a class for ever.
int64_t RegisterPair(int64_t) {
  namespace reflection = tvm::ffi::reflection;
  reflection::ObjectDef<PairObj>()
      .def_ro("first", &PairObj::first)
      .def_ro("second", &PairObj::second);
  return 0;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(register_pair, RegisterPair);
