// SPDX-License-Identifier: Apache-2.0
#include "os/exit_handlers.h"

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/fork_lock.h"

extern "C" int __cxa_atexit(void (*handler)(void*), void* argument, void* dso_handle);
extern "C" int __cxa_at_quick_exit(void (*handler)(void*), void* dso_handle);
extern "C" void __cxa_finalize(void* dso_handle);

namespace object_loader {

namespace {

Mutex mutex;
// Never destroyed: other threads may still be loading when the process ends.
std::map<uint64_t, Finalizers>& finalizers_at_exit = *new std::map<uint64_t, Finalizers>;
uint64_t last_number = 0;

struct ExitHandler {
  void (*function)(void*);
  void* argument;
};

// Called by libc, which does not hold its lock then.
void Run(void* given) {
  std::unique_ptr<ExitHandler> handler(static_cast<ExitHandler*>(given));
  ForkInclusion inclusion;
  handler->function(handler->argument);
}

int AtExit(void (*function)(void*), void* argument, void* dso_handle) {
  ForkExclusion exclusion;
  auto handler = std::make_unique<ExitHandler>(ExitHandler{function, argument});
  int failed = __cxa_atexit(Run, handler.get(), dso_handle);
  if (!failed) static_cast<void>(handler.release());
  return failed;
}

int AtQuickExit(void (*function)(void*), void* dso_handle) {
  ForkExclusion exclusion;
  return __cxa_at_quick_exit(function, dso_handle);
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
  if (symbol == "__cxa_at_quick_exit") return reinterpret_cast<void*>(AtQuickExit);
  return nullptr;
}

void RunExitHandlers(void* dso_handle) {
  ForkExclusion exclusion;
  __cxa_finalize(dso_handle);
}

}  // namespace object_loader
