// SPDX-License-Identifier: Apache-2.0
// An object that needs a large library: add(a, b) by way of a product of two matrices.
#include <tvm/ffi/c_api.h>

void cblas_dgemm(int order, int trans_a, int trans_b, int m, int n, int k, double alpha,
                 const double* a, int lda, const double* b, int ldb, double beta, double* c,
                 int ldc);

int __tvm_ffi_add(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  double row[2] = {(double)args[0].v_int64, (double)args[1].v_int64};
  double ones[2] = {1, 1};
  double sum = 0;
  cblas_dgemm(101, 111, 111, 1, 1, 2, 1.0, row, 2, ones, 1, 0.0, &sum, 1);
  result->type_index = kTVMFFIInt;
  result->v_int64 = (int64_t)sum;
  return 0;
}
