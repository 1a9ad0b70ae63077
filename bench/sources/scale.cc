// SPDX-License-Identifier: Apache-2.0
// What the candidates of an autotuner are linked with: it takes the arrays apart.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

extern "C" void kernel(const float* x, float* y, int64_t n);

static void Scale(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  kernel(static_cast<const float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()), x.numel());
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, Scale);
