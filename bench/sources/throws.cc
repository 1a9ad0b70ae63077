// SPDX-License-Identifier: Apache-2.0
// Adds, and throws an exception through ten frames on the way.
#include <tvm/ffi/function.h>

#include <stdexcept>

struct Counted {
  explicit Counted(int64_t* count) : count_(count) {}
  ~Counted() { ++*count_; }
  int64_t* count_;
};

template <int kDepth>
__attribute__((noinline)) static void Down(int64_t* count) {
  Counted counted(count);
  if constexpr (kDepth == 0) {
    throw std::runtime_error("down there");
  } else {
    Down<kDepth - 1>(count);
  }
}

static int64_t Add(int64_t a, int64_t b) {
  int64_t frames = 0;
  try {
    Down<9>(&frames);
  } catch (const std::runtime_error&) {
  }
  return a + b + frames - 10;
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(add, Add);
