// SPDX-License-Identifier: Apache-2.0
// The C object: functions that do next to nothing, so that what is measured is the way to them.
// Each exists twice: with TVM-FFI's calling convention, and plain for the peers that have none.
#include <tvm/ffi/c_api.h>

int64_t add(int64_t a, int64_t b) { return a + b; }
double scale(double a, double b) { return a * b; }
_Bool flip(_Bool a) { return !a; }
void nothing(const void* a) { (void)a; }
int64_t first_byte(const char* a) { return (unsigned char)a[0]; }

#define FFI_FUNCTION(NAME) \
  int __tvm_ffi_##NAME(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result)

FFI_FUNCTION(add) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = add(args[0].v_int64, args[1].v_int64);
  return 0;
}

FFI_FUNCTION(scale) {
  result->type_index = kTVMFFIFloat;
  result->v_float64 = scale(args[0].v_float64, args[1].v_float64);
  return 0;
}

FFI_FUNCTION(flip) {
  result->type_index = kTVMFFIBool;
  result->v_int64 = !args[0].v_int64;
  return 0;
}

FFI_FUNCTION(nothing) {
  result->type_index = kTVMFFINone;
  return 0;
}

// Takes anything: says which type index arrived.
FFI_FUNCTION(touch) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = args[0].type_index;
  return 0;
}
