// SPDX-License-Identifier: Apache-2.0
//
// What mutants are made of, in C: small, so that most mutations hit something. Common symbols,
// aliases, versions, all visibilities and models of thread-local variables, sections with bounds,
// and again nothing that runs when it is loaded.
#include <string.h>

#include "safe_call.h"

int common_number;
int64_t common_table[20];
static int64_t numbers[8] = {3, 1, 4, 1, 5, 9, 2, 6};
const int64_t* const into_numbers[] = {&numbers[1], &numbers[7]};
__attribute__((visibility("hidden"))) int64_t hidden_number = 5;
__attribute__((visibility("protected"))) const char* protected_text = "text";
__attribute__((visibility("internal"))) int64_t internal_number = 6;
__attribute__((weak)) int64_t weak_number = 7;
__attribute__((weak)) extern int64_t weak_nowhere;
__attribute__((section("bounded"), used)) static int64_t in_bounded[3] = {1, 2, 3};
extern int64_t __start_bounded[] __attribute__((visibility("hidden")));
extern int64_t __stop_bounded[] __attribute__((visibility("hidden")));

#ifdef __PIC__
__thread int64_t own_per_thread = 8;
static __thread int64_t zero_per_thread[4];
__thread int64_t initial_exec __attribute__((tls_model("initial-exec"))) = 9;
#else
int64_t own_per_thread = 8, zero_per_thread[4], initial_exec = 9;
#endif

size_t old_strlen(const char* text);
__asm__(".symver old_strlen, strlen@GLIBC_2.2.5");

int64_t Versioned(int64_t n) { return n * 3; }
__asm__(".symver Versioned, Versioned@@V2");
int64_t Alias(int64_t n) __attribute__((alias("Versioned")));

__asm__(
    ".globl absolute_number\n"
    ".set absolute_number, 0x1234\n"
    ".pushsection .rodata.cst16, \"aM\", @progbits, 16\n"
    ".quad 1, 2, 3, 4\n"
    ".popsection\n");

double Half(double x) { return x * 0.5; }

EXPORT(run) {
  int64_t total = 0;
  for (int64_t* p = __start_bounded; p < __stop_bounded; ++p) total += *p;
  memset(common_table, 1, sizeof common_table);
  total += *into_numbers[INT(0) & 1] + hidden_number + internal_number + weak_number;
  total += &weak_nowhere ? weak_nowhere : 1;
  total += own_per_thread + zero_per_thread[1] + initial_exec + (int64_t)old_strlen(protected_text);
  RETURN(total + Alias(2) + common_number + (int64_t)Half(3));
}
