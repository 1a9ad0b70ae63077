/* SPDX-License-Identifier: Apache-2.0
 *
 * What a static linker adds to every shared library from libc_nonshared.a: functions that glibc
 * does not export, because they must know which library calls them or because they translate an
 * older interface; and a conversion that the libgcc of an older compiler lacks. Compiled once for
 * each SUPPORT_..., to the members of an archive that the extension carries; a load that needs one
 * of these functions links that member, so that `__dso_handle` below is the load's own and handlers
 * are run, or forgotten, when it is unloaded.
 */
extern void* __dso_handle;

#ifdef SUPPORT_atexit
extern int __cxa_atexit(void (*handler)(void*), void* argument, void* dso);

/* glibc calls the handler with an argument that a function without parameters does not look at. */
int atexit(void (*handler)(void)) {
  return __cxa_atexit((void (*)(void*))(void*)handler, 0, &__dso_handle);
}
#endif

#ifdef SUPPORT_at_quick_exit
extern int __cxa_at_quick_exit(void (*handler)(void*), void* dso);

int at_quick_exit(void (*handler)(void)) {
  return __cxa_at_quick_exit((void (*)(void*))(void*)handler, &__dso_handle);
}
#endif

#ifdef SUPPORT_pthread_atfork
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                             void* dso);

int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  return __register_atfork(prepare, parent, child, &__dso_handle);
}

int __pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  return __register_atfork(prepare, parent, child, &__dso_handle);
}
#endif

#ifdef SUPPORT_stack_chk_fail_local
extern void __stack_chk_fail(void);

void __stack_chk_fail_local(void) { __stack_chk_fail(); }
#endif

/* glibc exports these since 2.33; before, only what they call here. There is one layout of `struct
 * stat` for each processor, which these versions stand for.
 */
#ifdef SUPPORT_stat
#ifdef __x86_64__
#define STAT_VERSION 1
#else
#define STAT_VERSION 0
#endif
#define MKNOD_VERSION 0

struct stat;
typedef unsigned int mode;
typedef unsigned long device;

extern int __xstat(int version, const char* path, struct stat* status);
extern int __fxstat(int version, int file, struct stat* status);
extern int __lxstat(int version, const char* path, struct stat* status);
extern int __fxstatat(int version, int folder, const char* path, struct stat* status, int flags);
extern int __xmknod(int version, const char* path, mode permissions, device* number);
extern int __xmknodat(int version, int folder, const char* path, mode permissions, device* number);

int stat(const char* path, struct stat* status) { return __xstat(STAT_VERSION, path, status); }
int stat64(const char* path, struct stat* status) { return __xstat(STAT_VERSION, path, status); }
int fstat(int file, struct stat* status) { return __fxstat(STAT_VERSION, file, status); }
int fstat64(int file, struct stat* status) { return __fxstat(STAT_VERSION, file, status); }
int lstat(const char* path, struct stat* status) { return __lxstat(STAT_VERSION, path, status); }
int lstat64(const char* path, struct stat* status) { return __lxstat(STAT_VERSION, path, status); }

int fstatat(int folder, const char* path, struct stat* status, int flags) {
  return __fxstatat(STAT_VERSION, folder, path, status, flags);
}

int fstatat64(int folder, const char* path, struct stat* status, int flags) {
  return __fxstatat(STAT_VERSION, folder, path, status, flags);
}

int mknod(const char* path, mode permissions, device number) {
  return __xmknod(MKNOD_VERSION, path, permissions, &number);
}

int mknodat(int folder, const char* path, mode permissions, device number) {
  return __xmknodat(MKNOD_VERSION, folder, path, permissions, &number);
}
#endif

/* bfloat16 is the upper half of a float, and travels in the first two bytes of a register of
 * vectors. libgcc has these since GCC 13.
 */
#ifdef SUPPORT_bfloat16
typedef int vector __attribute__((vector_size(16)));

static vector Pack(unsigned bits) {
  vector packed = {(int)bits, 0, 0, 0};
  return packed;
}

static unsigned Bits(float value) {
  unsigned bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

/* Rounds to the nearest, and halfway between two to the even one; a NaN stays one. */
static vector Round(unsigned bits) {
  if ((bits & 0x7fffffff) > 0x7f800000) return Pack((bits >> 16) | 0x40);
  return Pack((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Rounding twice would round wrongly where the first rounding ends halfway; so that what the float
 * leaves out is not lost, it is kept in the last bit (rounding to odd), far below the half.
 */
#define TRUNCATE(name, type)                                 \
  vector name(type value) {                                  \
    float single = (float)value;                             \
    unsigned bits = Bits(single);                            \
    type nearest = single;                                   \
    if (nearest != value && value == value) {                \
      type size = value < 0 ? -value : value;                \
      if ((nearest < 0 ? -nearest : nearest) > size) --bits; \
      bits |= 1;                                             \
    }                                                        \
    return Round(bits);                                      \
  }

vector __truncsfbf2(float value) { return Round(Bits(value)); }
TRUNCATE(__truncdfbf2, double)
#ifdef __x86_64__
TRUNCATE(__truncxfbf2, long double)
TRUNCATE(__trunctfbf2, __float128)
#else
TRUNCATE(__trunctfbf2, long double)
#endif

float __extendbfsf2(vector packed) {
  unsigned bits = (unsigned)packed[0] << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
#endif
