// SPDX-License-Identifier: Apache-2.0
//
// What loaded code wants to be run when it is unloaded, or when the process exits before that.
//
// Handlers (of atexit, and destructors of static objects) are kept here, a list for each load; and
// libc is told of each, so that at exit they run in the order in which they would for a shared
// library. Libc's own list is not searched when a load goes, as it is for a library: that takes the
// longer the more handlers the process has. And libc's lock on its list is one that a forked child
// finds as it was (see fork_lock.h): so loaded code's __cxa_atexit and __cxa_at_quick_exit lead
// here, where a fork is kept out meanwhile.
#ifndef OBJECT_LOADER_OS_EXIT_HANDLERS_H_
#define OBJECT_LOADER_OS_EXIT_HANDLERS_H_

#include <cstdint>
#include <string_view>
#include <vector>

namespace object_loader {

class CodeOwner;

// What a reference of loaded code to `symbol` is bound to, or null where it is no such function.
void* ExitFunction(std::string_view symbol);

// The functions in a load's arrays of finalizers, which the dynamic linker would run at exit.
struct Finalizers {
  std::vector<void (*)()> functions;  // in the order in which they run
  CodeOwner* owner = nullptr;
};

// Has the finalizers of a load run when the process exits, the load added last first. Returns the
// number to remove them by.
uint64_t AddFinalizers(Finalizers finalizers);
// Returns false where they have been run, or are running.
bool RemoveFinalizers(uint64_t number);

// To be called once, when everything that the loader itself uses is initialized: whatever has been
// added is then run before the first part of that is destroyed.
void RunFinalizersAtExit();

// Whether one of the load's handlers has an argument in this range: a destructor gets the address
// of its object.
bool HasExitHandlerFor(CodeOwner& owner, uint64_t begin, uint64_t end);
// Runs the handlers of the load, the last one first.
void RunExitHandlers(CodeOwner& owner);
// What it registered with pthread_atfork or at_quick_exit is not called any more.
void ForgetOtherHandlers(CodeOwner& owner);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_EXIT_HANDLERS_H_
