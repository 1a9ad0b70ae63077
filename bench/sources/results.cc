// SPDX-License-Identifier: Apache-2.0
// Functions that return objects which their own code has to destroy, and one that is given a list.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/list.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <vector>

namespace ffi = tvm::ffi;

static constexpr int64_t kCount = 100;

// Too long to be kept in place.
static ffi::String Text(int64_t n) { return "a string of some length " + std::to_string(n); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(string, Text);

struct Memory {
  void AllocData(DLTensor* tensor) { tensor->data = new float[tensor->shape[0]](); }
  void FreeData(DLTensor* tensor) { delete[] static_cast<float*>(tensor->data); }
};

static ffi::Tensor TensorOf(int64_t n) {
  return ffi::Tensor::FromNDAlloc(Memory(), {n}, DLDataType{kDLFloat, 32, 1},
                                  DLDevice{kDLCPU, 0});
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(tensor, TensorOf);

static ffi::Array<ffi::String> ArrayOf(int64_t n) {
  std::vector<ffi::String> texts;
  for (int64_t i = 0; i < kCount; ++i) texts.push_back(Text(n + i));
  return ffi::Array<ffi::String>(texts.begin(), texts.end());
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(array, ArrayOf);

static ffi::Map<ffi::String, ffi::Any> MapOf(int64_t n) {
  ffi::Map<ffi::String, ffi::Any> map;
  for (int64_t i = 0; i < kCount; ++i) map.Set(Text(n + i), i);
  return map;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(map, MapOf);

static int64_t SizeOf(ffi::ObjectRef list) { return list.as<ffi::ListObj>()->size(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(size, SizeOf);

static int64_t CallBack(ffi::Function function) {
  return function(Text(0)).cast<int64_t>();
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_back, CallBack);
