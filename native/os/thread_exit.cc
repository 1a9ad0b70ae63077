// SPDX-License-Identifier: Apache-2.0
#include "os/thread_exit.h"

#include <algorithm>
#include <new>
#include <utility>

extern "C" int __cxa_thread_atexit_impl(void (*destructor)(void*), void* object, void* dso_handle);
extern "C" __attribute__((visibility("hidden"))) void* __dso_handle;

namespace object_loader {

namespace {

struct Pending {
  void (*destructor)(void*);
  void* object;
  const CodeOwner* owner;
  std::shared_ptr<void> code;
};

// Made when it is first needed, and freed by the C library's own list of what to do at the end of
// the thread. Loaded code may register more while that list is being run.
thread_local std::vector<Pending>* pending_of_thread = nullptr;

void RunAll(void*) {
  while (!pending_of_thread->empty()) {
    Pending last = std::move(pending_of_thread->back());
    pending_of_thread->pop_back();
    last.destructor(last.object);
    // Letting go of `code` may unload it.
  }
  delete std::exchange(pending_of_thread, nullptr);
}

int AtThreadExit(void (*destructor)(void*), void* object, void* dso_handle) {
  CodeOwner* owner = OwnerOf(reinterpret_cast<const void*>(destructor), dso_handle);
  if (!owner) return __cxa_thread_atexit_impl(destructor, object, dso_handle);
  try {
    if (!pending_of_thread) {
      pending_of_thread = new std::vector<Pending>;
      __cxa_thread_atexit_impl(RunAll, nullptr, &__dso_handle);
    }
    pending_of_thread->push_back({destructor, object, owner, owner->KeepForThread()});
    return 0;
  } catch (const std::bad_alloc&) {
    // The object is constructed, and no compiler's code takes an exception here. As libstdc++'s own
    // function does where it has no memory: the object is never destroyed.
    return -1;
  }
}

bool IsOf(const Pending& pending, const std::vector<const CodeOwner*>& owners) {
  return std::find(owners.begin(), owners.end(), pending.owner) != owners.end();
}

}  // namespace

CodeOwner* (*CodeOwner::FindByAddress)(const void*) = [](const void*) -> CodeOwner* {
  return nullptr;
};

CodeOwner* OwnerOf(const void* function, void* dso_handle) {
  CodeOwner* owner = CodeOwner::FindByAddress(dso_handle);
  return owner ? owner : CodeOwner::FindByAddress(function);
}

std::map<std::string, void*> ThreadExitFunctions() {
  void* function = reinterpret_cast<void*>(AtThreadExit);
  return {{"__cxa_thread_atexit", function}, {"__cxa_thread_atexit_impl", function}};
}

size_t PendingOnThisThread(const std::vector<const CodeOwner*>& owners) {
  if (!pending_of_thread) return 0;
  return static_cast<size_t>(
      std::count_if(pending_of_thread->begin(), pending_of_thread->end(),
                    [&](const Pending& pending) { return IsOf(pending, owners); }));
}

void RunPendingOnThisThread(const std::vector<const CodeOwner*>& owners) {
  while (pending_of_thread) {
    auto last = std::find_if(pending_of_thread->rbegin(), pending_of_thread->rend(),
                             [&](const Pending& pending) { return IsOf(pending, owners); });
    if (last == pending_of_thread->rend()) return;
    Pending taken = std::move(*last);
    pending_of_thread->erase(std::next(last).base());
    taken.destructor(taken.object);
  }
}

}  // namespace object_loader
