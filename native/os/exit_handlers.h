// SPDX-License-Identifier: Apache-2.0
//
// What loaded code wants to be run when it is unloaded, or when the process exits before that.
//
// Handlers (of atexit, and destructors of static objects) are kept in libc's own list, so that they
// run in the order in which they would run for a shared library. But libc's lock on that list is
// one that a forked child finds as it was (see fork_lock.h). So loaded code's __cxa_atexit and
// __cxa_at_quick_exit lead here, where a fork is kept out meanwhile.
#ifndef OBJECT_LOADER_OS_EXIT_HANDLERS_H_
#define OBJECT_LOADER_OS_EXIT_HANDLERS_H_

#include <cstdint>
#include <string_view>
#include <vector>

namespace object_loader {

// What a reference of loaded code to `symbol` is bound to, or null where it is no such function.
void* ExitFunction(std::string_view symbol);

// The functions in a load's arrays of finalizers, which the dynamic linker would run at exit.
struct Finalizers {
  std::vector<void (*)()> functions;  // in the order in which they run
};

// Has the finalizers of a load run when the process exits, the load added last first. Returns the
// number to remove them by.
uint64_t AddFinalizers(Finalizers finalizers);
// Returns false where they have been run, or are running.
bool RemoveFinalizers(uint64_t number);

// To be called once, when everything that the loader itself uses is initialized: whatever has been
// added is then run before the first part of that is destroyed.
void RunFinalizersAtExit();

// Runs the handlers of the load that has this __dso_handle, the last one first.
void RunExitHandlers(void* dso_handle);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_EXIT_HANDLERS_H_
