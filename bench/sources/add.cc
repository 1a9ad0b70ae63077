// SPDX-License-Identifier: Apache-2.0
// The C++ object: one typed function, as TVM-FFI's users export it.
#include <tvm/ffi/function.h>

static int64_t Add(int64_t a, int64_t b) { return a + b; }

TVM_FFI_DLL_EXPORT_TYPED_FUNC(add, Add);
