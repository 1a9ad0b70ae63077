// SPDX-License-Identifier: Apache-2.0
#include "link/initializers.h"

namespace object_loader {

namespace {

using llvm::StringRef;

// Whether `section` is `array`, alone or with a priority.
bool Matches(StringRef section, StringRef array, int& priority) {
  if (!section.consume_front(array)) return false;
  if (section.empty()) return true;
  return section.consume_front(".") && !section.getAsInteger(10, priority);
}

}  // namespace

FunctionArray FunctionArrayOf(StringRef section) {
  // All of them begin so; most sections don't.
  if (section.size() < 5 || section[0] != '.' || !StringRef("pifcd").contains(section[1]))
    return {};
  if (section == ".preinit_array") return {FunctionArray::kInitializers, -1, false};
  FunctionArray array;
  if (Matches(section, ".init_array", array.priority)) {
    array.kind = FunctionArray::kInitializers;
  } else if (Matches(section, ".fini_array", array.priority)) {
    array.kind = FunctionArray::kFinalizers;
  } else {
    array.reversed = true;
    if (Matches(section, ".ctors", array.priority)) {
      array.kind = FunctionArray::kInitializers;
    } else if (Matches(section, ".dtors", array.priority)) {
      array.kind = FunctionArray::kFinalizers;
    }
    if (array.priority != kNoPriority) array.priority = 65535 - array.priority;
  }
  return array.kind == FunctionArray::kNone ? FunctionArray() : array;
}

}  // namespace object_loader
