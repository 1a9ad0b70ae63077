// SPDX-License-Identifier: Apache-2.0
// Arithmetic on integers and tensors, for the demo and the examples.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

namespace {

namespace ffi = tvm::ffi;

int64_t Add(int64_t a, int64_t b) { return a + b; }

int64_t Subtract(int64_t a, int64_t b) { return a - b; }

int64_t Divide(int64_t a, int64_t b) {
  if (b == 0) TVM_FFI_THROW(ValueError) << "cannot divide " << a << " by zero";
  return a / b;
}

void AddOne(ffi::TensorView x) {
  if (x.dtype() != DLDataType{kDLFloat, 32, 1}) {
    TVM_FFI_THROW(TypeError) << "add_one takes float32";
  }
  float* data = static_cast<float*>(x.data_ptr());
  for (int64_t i = 0; i < x.numel(); ++i) data[i] += 1;
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(simple_add, Add);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(simple_subtract, Subtract);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(simple_divide, Divide);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(add_one, AddOne);
