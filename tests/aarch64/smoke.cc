// SPDX-License-Identifier: Apache-2.0
// What depends on the size of pages: alignments, thread-local variables, unwinding, code that comes
// and goes. NUMBER tells the objects apart.
#include <atomic>
#include <stdexcept>
#include <string>

#include "safe_call.h"

namespace {
alignas(4096) const int64_t constants[700] = {NUMBER, 1, NUMBER};
alignas(4096) int64_t data[700] = {NUMBER, 2, NUMBER};
int64_t zeros[70000];
std::atomic<int64_t> counter{NUMBER};
thread_local std::string text = "a text that is too long for its object to hold";
thread_local int64_t of_the_thread = NUMBER;
int64_t constructed = 0;
struct Static {
  Static() { constructed = NUMBER; }
} object;

__attribute__((noinline)) void fail(int64_t n) {
  if (n < 0) throw std::runtime_error("negative");
}

int64_t twice(int64_t n) { return 2 * n; }
}  // namespace

extern "C" {
static int64_t (*choose())(int64_t) { return twice; }
int64_t chosen(int64_t n) __attribute__((ifunc("choose")));
}

EXPORT(number) { RETURN(constants[2] + data[2] + constructed - 2 * NUMBER); }
EXPORT(aligned) { RETURN((uintptr_t)constants % 4096 + (uintptr_t)data % 4096); }
EXPORT(caught) {
  int64_t result = 0;
  try {
    fail(INT(0));
  } catch (const std::exception& error) {
    result = std::string(error.what()).size();
  }
  RETURN(result);
}
EXPORT(threads) { RETURN(++of_the_thread - NUMBER + (int64_t)text.size()); }
EXPORT(counted) { RETURN(counter.fetch_add(1) + chosen(++zeros[69999]) - NUMBER); }
