// SPDX-License-Identifier: Apache-2.0
//
// Which of an object's sections hold initializers and finalizers, and in which order a shared
// library runs them: gABI chapter 5 and GNU ld's default script for -shared.
#ifndef OBJECT_LOADER_LINK_INITIALIZERS_H_
#define OBJECT_LOADER_LINK_INITIALIZERS_H_

#include <llvm/ADT/StringRef.h>

namespace object_loader {

// Initializers run by ascending priority, those without one last; GNU ld's default script puts
// `.ctors.N`, whose number counts down from 65535, among them.
constexpr int kNoPriority = 65536;

struct FunctionArray {
  enum Kind { kNone, kInitializers, kFinalizers } kind = kNone;
  int priority = kNoPriority;
  bool reversed = false;  // .ctors and .dtors are run from their end
};
FunctionArray FunctionArrayOf(llvm::StringRef section);

// Sections whose pieces are put together to one function.
constexpr llvm::StringLiteral kInitFragments = ".init";
constexpr llvm::StringLiteral kFiniFragments = ".fini";

inline bool IsRunAtLoadOrUnload(llvm::StringRef section) {
  return FunctionArrayOf(section).kind != FunctionArray::kNone || section == kInitFragments ||
         section == kFiniFragments;
}

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_INITIALIZERS_H_
