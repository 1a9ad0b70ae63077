// SPDX-License-Identifier: Apache-2.0
#include "os/exit_handlers.h"

#include <cxxabi.h>

#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "base/fork_lock.h"
#include "os/thread_exit.h"

extern "C" int __cxa_atexit(void (*handler)(void*), void* argument, void* dso_handle);
extern "C" int __cxa_at_quick_exit(void (*handler)(void*), void* dso_handle);
extern "C" void __cxa_finalize(void* dso_handle);
extern "C" int __register_atfork(void (*prepare)(), void (*parent)(), void (*child)(),
                                 void* dso_handle);

namespace object_loader {

namespace {

Mutex mutex;
// Never destroyed: other threads may still be loading when the process ends.
std::map<uint64_t, Finalizers>& finalizers_at_exit = *new std::map<uint64_t, Finalizers>;
uint64_t last_number = 0;

}  // namespace

// What libc is told of some handlers by: when all of them have been run, it forgets them at once,
// which takes the longer the more it has. (It uses the places of handlers again only behind the
// last one that it has not forgotten.)
struct ExitHandlerBatch {
  static constexpr int kSize = 64;
  int registered = 0;
  int left = 0;  // to be run
};

// Libc has the address of it, and frees it.
struct ExitHandler {
  void (*function)(void*);
  void* argument;
  CodeOwner* owner;         // null: of nobody whom the loader knows
  ExitHandlerBatch* batch;  // the same
  ExitHandler* before;      // of the owner's
  bool was_run;
};

namespace {

// Guarded by the mutex, as what the handlers and batches hold.
ExitHandlerBatch* newest_batch = nullptr;
int handlers_left = 0;  // in all batches

// Takes a handler out of its owner's list. Returns the batch that is done with then, or null.
ExitHandlerBatch* Take(ExitHandler& handler) {
  handler.was_run = true;
  ExitHandler** place = &handler.owner->exit_handlers;
  while (*place != &handler) place = &(*place)->before;
  *place = handler.before;
  ExitHandlerBatch* batch = handler.batch;
  --handlers_left;
  if (--batch->left != 0) return nullptr;
  bool is_full = batch->registered == ExitHandlerBatch::kSize;
  if (!is_full && handlers_left > batch->registered * ExitHandlerBatch::kSize) return nullptr;
  if (batch == newest_batch) newest_batch = nullptr;
  return batch;
}

// The owner's code stays while it runs.
std::shared_ptr<void> Keep(CodeOwner* owner) {
  try {
    return owner ? owner->KeepForThread() : nullptr;
  } catch (const std::exception&) {  // no memory, or the last owner is unloading it
    return nullptr;
  }
}

// Called by libc, which does not hold its lock then.
void Run(void* given) {
  std::unique_ptr<ExitHandler> handler(static_cast<ExitHandler*>(given));
  std::shared_ptr<void> code;
  if (handler->owner) {
    // The process is at its end. What the handler drops may be the last that needs its code.
    {
      std::lock_guard<Mutex> lock(mutex);
      if (handler->was_run) return;
      Take(*handler);
    }
    code = Keep(handler->owner);
  }
  ForkInclusion inclusion;
  handler->function(handler->argument);
}

int AtExit(void (*function)(void*), void* argument, void* dso_handle) {
  ForkExclusion exclusion;
  CodeOwner* owner = OwnerOf(reinterpret_cast<const void*>(function), dso_handle);
  std::unique_ptr<ExitHandler> handler(
      new (std::nothrow) ExitHandler{function, argument, owner, nullptr, nullptr, false});
  if (!handler) return -1;
  if (!owner) {
    int failed = __cxa_atexit(Run, handler.get(), dso_handle);
    if (!failed) static_cast<void>(handler.release());
    return failed;
  }
  std::lock_guard<Mutex> lock(mutex);
  if (!newest_batch || newest_batch->registered == ExitHandlerBatch::kSize) {
    auto* batch = new (std::nothrow) ExitHandlerBatch;
    if (!batch) return -1;
    newest_batch = batch;
  }
  handler->batch = newest_batch;
  if (int failed = __cxa_atexit(Run, handler.get(), newest_batch)) return failed;
  ++newest_batch->registered;
  ++newest_batch->left;
  ++handlers_left;
  handler->before = owner->exit_handlers;
  owner->exit_handlers = handler.release();
  return 0;
}

// The handlers below are libc's alone, under the owner's own address.
void* HandleFor(CodeOwner* owner, void* dso_handle) {
  if (!owner) return dso_handle;
  owner->is_known_to_libc = true;
  return owner;
}

int AtQuickExit(void (*function)(void*), void* dso_handle) {
  ForkExclusion exclusion;
  CodeOwner* owner = OwnerOf(reinterpret_cast<const void*>(function), dso_handle);
  return __cxa_at_quick_exit(function, HandleFor(owner, dso_handle));
}

int AtFork(void (*prepare)(), void (*parent)(), void (*child)(), void* dso_handle) {
  ForkExclusion exclusion;
  CodeOwner* owner = nullptr;
  for (auto* function : {prepare, parent, child}) {
    if (!owner) owner = OwnerOf(reinterpret_cast<const void*>(function), dso_handle);
  }
  return __register_atfork(prepare, parent, child, HandleFor(owner, dso_handle));
}

void RunAllFinalizers() {
  for (;;) {
    Finalizers last;
    {
      std::lock_guard<Mutex> lock(mutex);
      if (finalizers_at_exit.empty()) return;
      last = std::move(finalizers_at_exit.rbegin()->second);
      finalizers_at_exit.erase(std::prev(finalizers_at_exit.end()));
    }
    std::shared_ptr<void> code = Keep(last.owner);
    for (auto function : last.functions) function();
  }
}

}  // namespace

uint64_t AddFinalizers(Finalizers finalizers) {
  std::lock_guard<Mutex> lock(mutex);
  finalizers_at_exit[++last_number] = std::move(finalizers);
  return last_number;
}

bool RemoveFinalizers(uint64_t number) {
  std::lock_guard<Mutex> lock(mutex);
  return finalizers_at_exit.erase(number) > 0;
}

void RunFinalizersAtExit() { std::atexit(RunAllFinalizers); }

void* ExitFunction(std::string_view symbol) {
  if (symbol == "__cxa_atexit") return reinterpret_cast<void*>(AtExit);
  if (symbol == "__register_atfork") return reinterpret_cast<void*>(AtFork);
  if (symbol == "__cxa_at_quick_exit") return reinterpret_cast<void*>(AtQuickExit);
  return nullptr;
}

void ForgetOtherHandlers(CodeOwner& owner) {
  if (!owner.is_known_to_libc) return;
  ForkExclusion exclusion;
  __cxa_finalize(&owner);
}

bool HasExitHandlerFor(CodeOwner& owner, uint64_t begin, uint64_t end) {
  std::lock_guard<Mutex> lock(mutex);
  for (ExitHandler* handler = owner.exit_handlers; handler; handler = handler->before) {
    auto argument = reinterpret_cast<uint64_t>(handler->argument);
    if (argument >= begin && argument < end) return true;
  }
  return false;
}

void RunExitHandlers(CodeOwner& owner) {
  for (;;) {
    ExitHandlerBatch* finished;
    void (*function)(void*);
    void* argument;
    {
      std::lock_guard<Mutex> lock(mutex);
      ExitHandler* last = owner.exit_handlers;
      if (!last) return;
      function = last->function;
      argument = last->argument;
      finished = Take(*last);
    }
    if (finished) {
      ForkExclusion exclusion;
      __cxa_finalize(finished);
      delete finished;
    }
    try {
      function(argument);
    } catch (const abi::__forced_unwind&) {
      throw;  // the thread is being cancelled
    } catch (...) {
      // There is nobody to tell; the others are run nevertheless.
    }
  }
}

}  // namespace object_loader
