// SPDX-License-Identifier: Apache-2.0
//
// The outline atomics of AArch64 (GCC's and clang's -moutline-atomics, which is the default): a
// function for each operation, size and order, which uses the processor's own instruction where
// there is one. They are libgcc's (or compiler-rt's), hidden in whatever they are linked with; here
// that is the extension.
#include <array>

#include "support/supplied.h"

#if defined(__aarch64__)

#define FOR_ORDERS(what, operation, size)                                            \
  what(operation, size, relax) what(operation, size, acq) what(operation, size, rel) \
      what(operation, size, acq_rel) what(operation, size, sync)
#define FOR_SIZES(what, operation) \
  FOR_ORDERS(what, operation, 1)   \
  FOR_ORDERS(what, operation, 2)   \
  FOR_ORDERS(what, operation, 4)   \
  FOR_ORDERS(what, operation, 8)
#define FOR_ALL(what)       \
  FOR_SIZES(what, cas)      \
  FOR_ORDERS(what, cas, 16) \
  FOR_SIZES(what, swp)      \
  FOR_SIZES(what, ldadd)    \
  FOR_SIZES(what, ldclr)    \
  FOR_SIZES(what, ldeor)    \
  FOR_SIZES(what, ldset)

#define DECLARE(operation, size, order) \
  extern "C" __attribute__((visibility("hidden"))) void __aarch64_##operation##size##_##order();
FOR_ALL(DECLARE)

#endif

namespace object_loader {

const void* SuppliedFunction(llvm::StringRef symbol) {
#if defined(__aarch64__)
  struct Function {
    llvm::StringLiteral name;
    void (*address)();
  };
#define ENTRY(operation, size, order) \
  {#operation #size "_" #order, __aarch64_##operation##size##_##order},
  static const Function kFunctions[] = {FOR_ALL(ENTRY)};
  if (symbol.consume_front("__aarch64_")) {
    for (const Function& function : kFunctions) {
      if (function.name == symbol) return reinterpret_cast<const void*>(function.address);
    }
  }
#endif
  static_cast<void>(symbol);
  return nullptr;
}

}  // namespace object_loader
