// SPDX-License-Identifier: Apache-2.0
#include "support/supplied.h"

#include <llvm/ADT/StringSwitch.h>

extern "C" __attribute__((visibility("hidden"))) const char object_loader_support_begin[];
extern "C" __attribute__((visibility("hidden"))) const char object_loader_support_end[];

namespace object_loader {

using llvm::StringRef;

const Archive& SuppliedArchive() {
  // Read when it is first needed, and there for threads that outlive the program's end.
  static const Archive& archive = *new Archive(Archive::FromBytes(FileContent::OfBytes(
      StringRef(object_loader_support_begin,
                static_cast<size_t>(object_loader_support_end - object_loader_support_begin)),
      /*immutable=*/true, "support.a")));
  return archive;
}

bool IsSuppliedToEachLoad(StringRef symbol) {
  return llvm::StringSwitch<bool>(symbol)
      .Cases({"atexit", "at_quick_exit", "pthread_atfork", "__pthread_atfork"}, true)
      .Cases({"__stack_chk_fail_local"}, true)
      .Cases({"__cpu_model", "__cpu_features2", "__cpu_indicator_init"}, true)
      .Case("__aarch64_cpu_features", true)
      .Default(false);
}

}  // namespace object_loader
