// SPDX-License-Identifier: Apache-2.0
// Operations that compilers turn into calls of functions which no source names: libgcc's.
#include <complex.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "safe_call.h"

typedef __int128 wide;
#ifdef __x86_64__
typedef __float128 quad;
#else
typedef long double quad;
#endif

EXPORT(divide_wide) {
  volatile wide a = ((wide)INT(0) << 64) + INT(1);
  volatile wide b = INT(2);
  volatile unsigned __int128 c = (unsigned __int128)a;
  RETURN((int64_t)(a / b) ^ (int64_t)(a % b) ^ (int64_t)(c / (unsigned)INT(2)) ^ (int64_t)(c % (unsigned)INT(2)));
}

EXPORT(wide_and_floating) {
  volatile double d = (double)INT(0) * 1e20;
  volatile wide w = (wide)d;
  volatile unsigned __int128 u = (unsigned __int128)(float)INT(1);
  volatile long double l = (long double)w + (long double)u;
  volatile float f = (float)w;
  RETURN((int64_t)(w >> 40) + (int64_t)u + (int64_t)(l / 1e6L) + (int64_t)(f / 1e8f));
}

EXPORT(half) {
  volatile _Float16 a = (_Float16)((double)INT(0) / 7);
  volatile _Float16 b = (_Float16)((float)INT(1) / 3);
  volatile _Float16 sum = a * b + a / b - (_Float16)1;
  volatile long double wide_sum = sum;
  volatile _Float16 back = (_Float16)wide_sum;
  volatile __int128 large = (__int128)back;
  RETURN((int64_t)(1e6 * (double)sum) + (int64_t)(1e3f * (float)back) + (int64_t)large +
         (a < b) + 2 * (a == b) + (int64_t)(_Float16)INT(2));
}

EXPORT(multiply_complex) {
  volatile float complex f = (float)INT(0) + (float)INT(1) * I;
  volatile double complex d = (double)INT(0) + (double)INT(1) * I;
  volatile long double complex l = (long double)INT(0) + (long double)INT(1) * I;
  f = f * f / (f + 1);
  d = d * d / (d + 1);
  l = l * l / (l + 1);
  RETURN((int64_t)(1e4f * (crealf(f) + cimagf(f))) + (int64_t)(1e9 * (creal(d) - cimag(d))) +
         (int64_t)(1e9L * (creall(l) + cimagl(l))));
}

EXPORT(bits) {
  volatile unsigned long n = (unsigned long)INT(0);
  volatile unsigned __int128 w = ((unsigned __int128)n << 64) + n;
  RETURN(__builtin_popcountl(n) + 100 * __builtin_popcount((unsigned)n) +
         10000 * __builtin_parityl(n) + 100000 * __builtin_ctzl(n) +
         10000000 * (__builtin_popcountl((unsigned long)(w >> 60)) + __builtin_ffsl((long)n)));
}

EXPORT(quadruple) {
  volatile quad a = (quad)INT(0) / 3;
  volatile quad b = a * a - (quad)INT(1) + (quad)0.1L;
  volatile int order = (a < b) + 2 * (a == b) + 4 * (a != b) + 8 * (a >= b);
  volatile double d = (double)b;
  volatile float f = (float)a;
  RETURN((int64_t)(1e6 * d) + (int64_t)(1e4f * f) + (int64_t)b + order);
}

EXPORT(power) {
  volatile double x = (double)INT(0);
  volatile int n = (int)INT(1);
  volatile long double l = __builtin_powil((long double)x, n);
  RETURN((int64_t)__builtin_powi(x, n) + (int64_t)__builtin_powif((float)x, n) + (int64_t)l);
}

EXPORT(mathematics) {
  double x = (double)INT(0);
  RETURN((int64_t)(1e9 * (sin(x) + cbrt(x) + tgamma(x / 10) + fma(x, x, 0.5) + remquo(x, 3, &(int){0}))) +
         (int64_t)(1e5f * (expm1f((float)x / 10) + erff((float)x / 10))) +
         (int64_t)(1e9L * (log1pl(x) + acoshl(x + 1))));
}

#ifdef __x86_64__
EXPORT(cpu) {
  __builtin_cpu_init();
  RETURN(!!__builtin_cpu_supports("sse2") + 2 * !!__builtin_cpu_supports("avx2") +
         4 * !!__builtin_cpu_supports("avx512f") + 8 * !!__builtin_cpu_supports("avx512vbmi2") +
         16 * !!__builtin_cpu_supports("fma") + 32 * !!__builtin_cpu_is("intel") +
         64 * !!__builtin_cpu_is("amd") + 128 * !!__builtin_cpu_supports("gfni"));
}
#endif

EXPORT(status) {
  struct stat s, l, f, at;
  int file = open("/proc/mounts", O_RDONLY);
  int failed = stat("/proc/mounts", &s) | lstat("/proc/mounts", &l) | fstat(file, &f) |
               fstatat(AT_FDCWD, "/proc/mounts", &at, 0);
  close(file);
  // Neither is allowed to anybody.
  failed |= mknod("/proc/self/node", S_IFREG, 0) == 0 || mknodat(file, "node", S_IFREG, 0) == 0;
  RETURN(failed ? -1 : (s.st_size == f.st_size) + 2 * (s.st_ino == at.st_ino) + 4 * S_ISLNK(l.st_mode));
}

#if defined(__x86_64__) && !defined(__clang__)
__attribute__((noinline, ms_abi)) static int64_t saves_registers(int64_t (*f)(int64_t), int64_t n) {
  return f(n) + f(n + 1) * n;
}
static int64_t twice(int64_t n) { return 2 * n; }
EXPORT(other_convention) {
  int64_t (*volatile f)(int64_t) = twice;
  RETURN(saves_registers(f, INT(0)));
}
#endif

#ifdef TRAPS
EXPORT(checked) {
  volatile int64_t a = INT(0), b = INT(1);
  volatile int c = (int)a, d = (int)b;
  RETURN((a + b) * (a - b) + (c + d) * (c - d) - -a);
}
#endif
