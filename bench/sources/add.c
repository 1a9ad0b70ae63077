// SPDX-License-Identifier: Apache-2.0
// The C object of the load benchmarks: one exported function, no undefined symbol.
#include <tvm/ffi/c_api.h>

int __tvm_ffi_add(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = args[0].v_int64 + args[1].v_int64;
  return 0;
}
