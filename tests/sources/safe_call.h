// SPDX-License-Identifier: Apache-2.0
// The TVM-FFI calling convention for sources that need none of its C++: EXPORT(add) { RETURN(INT(0) + INT(1)); }
#ifndef TESTS_SAFE_CALL_H_
#define TESTS_SAFE_CALL_H_

#include <stdint.h>
#include <tvm/ffi/c_api.h>

#ifdef __cplusplus
#define C_LINKAGE extern "C"
#else
#define C_LINKAGE extern
#endif

#define EXPORT(name) EXPORT_(name)
#define EXPORT_(name)                                                                          \
  C_LINKAGE int __tvm_ffi_##name(void* self, const TVMFFIAny* args, int32_t num_args,          \
                                 TVMFFIAny* ret);                                              \
  int __tvm_ffi_##name(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* ret)

#define INT(i) (args[i].v_int64)

#define RETURN(value)                      \
  do {                                     \
    int64_t result_ = (int64_t)(value);    \
    ret->type_index = kTVMFFIInt;          \
    ret->zero_padding = 0;                 \
    ret->v_int64 = result_;                \
    return 0;                              \
  } while (0)

#endif  // TESTS_SAFE_CALL_H_
