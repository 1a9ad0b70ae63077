// SPDX-License-Identifier: Apache-2.0
//
// Image: what linking one load gave, and the functions that run when it comes and goes.
//
// Which of an object's sections hold initializers and finalizers, and in which order a shared
// library runs them: gABI chapter 5 and GNU ld's default script for -shared.
#ifndef OBJECT_LOADER_IMAGE_H_
#define OBJECT_LOADER_IMAGE_H_

#include <llvm/ExecutionEngine/Orc/Core.h>

#include <memory>
#include <vector>

#include "link_graph.h"
#include "thread_exit.h"
#include "unwind.h"

namespace object_loader {

struct Image {
  using Initializer = void (*)(int, char**, char**);
  using Finalizer = void (*)();

  llvm::orc::ResourceTrackerSP tracker;  // removing it gives the memory back
  // In the order of the definitions given to Collect; of a thread-local variable, its offset.
  std::vector<llvm::orc::ExecutorAddr> defined;
  std::vector<void**> indirect_functions;  // pointers to the functions that choose
  std::vector<Initializer> initializers;   // in the order in which they run
  std::vector<Finalizer> finalizers;       // before the exit handlers, in this order
  std::vector<Finalizer> late_finalizers;  // those with a priority: after them
  uint64_t at_exit = 0;                    // what they are kept for exit under; 0: not
  DsoHandle* dso_handle = nullptr;         // null where nothing refers to it
  AddressRange eh_frame;                   // empty where there is none
  AddressRange code;
  UnwindTable unwind_table;
  std::shared_ptr<const TlsModule> tls_module;  // null where there is nothing thread-local

  // Fills in what a graph with its final addresses and content says.
  void Collect(llvm::jitlink::LinkGraph& graph, const std::vector<Definition>& definitions);

  // Has the finalizers run when the process exits, if they have not been by then.
  void KeepForExit();

  // Lets functions with several implementations choose theirs, then runs the initializers.
  void RunInitializers() const;
  bool has_initializers() const { return !initializers.empty() || !indirect_functions.empty(); }
  // Runs finalizers, destructors and atexit handlers, as dlclose does. There is nobody to tell what
  // they throw: the last reference may be dropped anywhere.
  void RunFinalizers() const;
};

// Keeps from being pruned what is reached only by its place: arrays of functions, and sections
// whose bounds are referred to.
void KeepAlive(llvm::jitlink::LinkGraph& graph);

}  // namespace object_loader

#endif  // OBJECT_LOADER_IMAGE_H_
