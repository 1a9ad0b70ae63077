// SPDX-License-Identifier: Apache-2.0
//
// Image: what linking one load gave, and the functions that run when it comes and goes.
#ifndef OBJECT_LOADER_LINK_IMAGE_H_
#define OBJECT_LOADER_LINK_IMAGE_H_

#include <llvm/ExecutionEngine/Orc/Core.h>

#include <memory>
#include <vector>

#include "link/tls_library.h"
#include "os/thread_exit.h"
#include "os/unwinder.h"

namespace object_loader {

struct Image {
  using Initializer = void (*)(int, char**, char**);
  using Finalizer = void (*)();

  llvm::orc::ResourceTrackerSP tracker;  // removing it gives the memory back
  // In the order of the definitions that were asked for; of a thread-local variable, its offset.
  std::vector<uint64_t> defined;
  std::vector<void**> indirect_functions;  // pointers to the functions that choose
  std::vector<Initializer> initializers;   // in the order in which they run
  std::vector<Finalizer> finalizers;       // before the exit handlers, in this order
  std::vector<Finalizer> late_finalizers;  // those with a priority, and .fini: after them
  uint64_t at_exit = 0;                    // what they are kept for exit under; 0: not
  DsoHandle* dso_handle = nullptr;         // null where nothing refers to it
  AddressRange frames;                     // the table of frames; empty where there is none
  AddressRange code;
  UnwindTable unwind_table;
  std::shared_ptr<const TlsLibrary> tls_library;  // null where there is nothing thread-local

  // Has the finalizers run when the process exits, if they have not been by then.
  void KeepForExit();

  // Lets functions with several implementations choose theirs, then runs the initializers.
  void RunInitializers() const;
  bool has_initializers() const { return !initializers.empty() || !indirect_functions.empty(); }
  // Runs finalizers, destructors and atexit handlers, as dlclose does. There is nobody to tell what
  // they throw: the last reference may be dropped anywhere.
  void RunFinalizers() const;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_IMAGE_H_
