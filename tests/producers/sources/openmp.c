#include "safe_call.h"
#include <omp.h>
static int64_t last;
#pragma omp threadprivate(last)
EXPORT(sum) { int64_t total = 0, n = INT(0);
#pragma omp parallel for reduction(+ : total) schedule(dynamic, 7) num_threads(3)
  for (int64_t i = 0; i < n; ++i) total += i * i % 17;
  RETURN(total); }
static int64_t fib(int64_t n) { if (n < 2) return n; int64_t a, b;
#pragma omp task shared(a) if (n > 12)
  a = fib(n - 1);
#pragma omp task shared(b) if (n > 12)
  b = fib(n - 2);
#pragma omp taskwait
  return a + b; }
EXPORT(tasks) { int64_t result = 0, n = INT(0);
#pragma omp parallel num_threads(3)
#pragma omp single
  result = fib(n);
  RETURN(result); }
EXPORT(team) { int64_t members = 0, order = 0;
#pragma omp parallel num_threads(4)
  {
    last = omp_get_thread_num() + 1;
#pragma omp barrier
#pragma omp critical
    members += last;
#pragma omp for ordered
    for (int i = 0; i < 8; ++i) {
#pragma omp ordered
      order = order * 3 + i;
    }
#pragma omp atomic
    members += 10;
  }
  RETURN(members * 100000 + order); }
EXPORT(simd) { double total = 0; int64_t n = INT(0);
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) total += i * 0.5;
  RETURN(total); }
