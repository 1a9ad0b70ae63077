// SPDX-License-Identifier: Apache-2.0
//
// What loaded code wants done when a thread ends: the destructors of thread-local objects.
//
// A C++ compiler registers the destructor of each thread-local object when a thread constructs it.
// The C library keeps a shared library loaded for as long as such destructors are pending; for code
// that no shared library holds they are kept here, each with a reference to that code. They run
// when their thread ends, or earlier, when the code is unloaded by that very thread.
//
// Whose a destructor is says its `__dso_handle`, or else where it lies, as in the C library: the
// runtimes of other languages give handles of their own.
//
// Concurrency: a thread's list is its own. No lock is held while destructors run.
#ifndef OBJECT_LOADER_OS_THREAD_EXIT_H_
#define OBJECT_LOADER_OS_THREAD_EXIT_H_

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace object_loader {

struct ExitHandler;

// Whoever owns loaded code.
class CodeOwner {
 public:
  virtual ~CodeOwner() = default;
  // The code stays in memory until the result is gone. Called by that code itself. Throws
  // std::bad_alloc.
  virtual std::shared_ptr<void> KeepForThread() = 0;

  // What is to be run when the code goes, the last first; for exit_handlers.cc.
  ExitHandler* exit_handlers = nullptr;
  // Whether libc has handlers under the owner's address, which are not run then.
  std::atomic<bool> is_known_to_libc{false};

  // Whose code, or whose `__dso_handle`, is at this address; null where it is nobody's. Set once,
  // before anything is loaded.
  static CodeOwner* (*FindByAddress)(const void* address);
};

// What the `__dso_handle` of a load is.
struct DsoHandle {
  void* self;  // as in GCC's crtbeginS.o: its own address
};

// Whose the function is that was registered with this handle; null where it is not loaded code.
CodeOwner* OwnerOf(const void* function, void* dso_handle);

// The functions that loaded code has to call in the place of the C and C++ library's, by symbol.
std::map<std::string, void*> ThreadExitFunctions();

// How many destructors of these owners are pending on this thread.
size_t PendingOnThisThread(const std::vector<const CodeOwner*>& owners);
// Runs them, the last registered first.
void RunPendingOnThisThread(const std::vector<const CodeOwner*>& owners);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_THREAD_EXIT_H_
