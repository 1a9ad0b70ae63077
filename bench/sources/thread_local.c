// SPDX-License-Identifier: Apache-2.0
// Adds, with a variable of which each thread has its own.
#include <tvm/ffi/c_api.h>

static _Thread_local int64_t calls;

int __tvm_ffi_add(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  ++calls;
  result->type_index = kTVMFFIInt;
  result->v_int64 = args[0].v_int64 + args[1].v_int64;
  return 0;
}
