#include "safe_call.h"
#include <cblas.h>
#include <stdlib.h>
extern void dgesv_(int* n, int* nrhs, double* a, int* lda, int* ipiv, double* b, int* ldb, int* info);
extern void dsyev_(char*, char*, int*, double*, int*, double*, double*, int*, int*);
static double value(int i, int j) { return (i * 37 + j * 17) % 23 - 11 + (i == j ? 60 : 0); }
EXPORT(multiply) {
  int n = INT(0);
  double* a = malloc(3 * n * n * sizeof(double)), *b = a + n * n, *c = b + n * n;
  for (int i = 0; i < n * n; ++i) { a[i] = value(i / n, i % n); b[i] = value(i % n, i / n + 1); c[i] = 1; }
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 2.0, a, n, b, n, 3.0, c, n);
  double total = 0;
  for (int i = 0; i < n * n; ++i) total += c[i] * (i % 5 - 2);
  free(a);
  RETURN(total);
}
EXPORT(solve) {
  int n = INT(0), one = 1, info;
  double* a = malloc((n * n + n) * sizeof(double)), *b = a + n * n;
  int* pivots = malloc(n * sizeof(int));
  for (int i = 0; i < n * n; ++i) a[i] = value(i / n, i % n);
  for (int i = 0; i < n; ++i) b[i] = i;
  dgesv_(&n, &one, a, &n, pivots, b, &n, &info);
  double total = info;
  for (int i = 0; i < n; ++i) total += b[i] * 1e6 * (i + 1);
  free(a); free(pivots);
  RETURN(total);
}
EXPORT(eigen) {
  int n = INT(0), size = 64 * n, info; char v = 'V', u = 'U';
  double* a = malloc((n * n + n + size) * sizeof(double)), *w = a + n * n, *work = w + n;
  for (int i = 0; i < n * n; ++i) a[i] = value(i % n < i / n ? i % n : i / n, i % n < i / n ? i / n : i % n);
  dsyev_(&v, &u, &n, a, &n, w, work, &size, &info);
  double total = info;
  for (int i = 0; i < n; ++i) total += w[i] * 1e6;
  free(a);
  RETURN(total);
}
EXPORT(threads) { openblas_set_num_threads(INT(0)); RETURN(openblas_get_num_threads()); }
