// SPDX-License-Identifier: Apache-2.0
#include "os/debugger.h"

#include <cstdint>
#include <mutex>

#include "base/fork_lock.h"

namespace object_loader {

struct DebuggedFile::Entry {
  Entry* next;
  Entry* previous;
  const char* bytes;
  uint64_t size;
};

}  // namespace object_loader

// Found by their names. Protected: those of other libraries do not come in their place. Weak: a
// static LLVM has the same, which nobody else uses.
extern "C" {

struct JitDescriptor {
  uint32_t version;
  uint32_t action;
  object_loader::DebuggedFile::Entry* relevant;
  object_loader::DebuggedFile::Entry* first;
};

__attribute__((visibility("protected"), weak)) JitDescriptor __jit_debug_descriptor = {
    1, 0, nullptr, nullptr};

__attribute__((visibility("protected"), weak, noinline)) void __jit_debug_register_code() {
  asm volatile("" ::: "memory");
}

}  // extern "C"

namespace object_loader {

namespace {

enum Action : uint32_t { kNothing, kRegister, kUnregister };

Mutex& ListMutex() {
  static auto* mutex = new Mutex;  // loaded code may outlive everything else
  return *mutex;
}

void Tell(Action action, DebuggedFile::Entry* entry) {
  __jit_debug_descriptor.relevant = entry;
  __jit_debug_descriptor.action = action;
  __jit_debug_register_code();
  // Whoever attaches from now on looks at the list alone.
  __jit_debug_descriptor.action = kNothing;
  __jit_debug_descriptor.relevant = nullptr;
}

}  // namespace

DebuggedFile::DebuggedFile(llvm::StringRef bytes)
    : entry_(new Entry{nullptr, nullptr, bytes.data(), bytes.size()}) {
  std::lock_guard<Mutex> lock(ListMutex());
  entry_->next = __jit_debug_descriptor.first;
  if (entry_->next) entry_->next->previous = entry_.get();
  __jit_debug_descriptor.first = entry_.get();
  Tell(kRegister, entry_.get());
}

DebuggedFile::~DebuggedFile() {
  std::lock_guard<Mutex> lock(ListMutex());
  if (entry_->next) entry_->next->previous = entry_->previous;
  (entry_->previous ? entry_->previous->next : __jit_debug_descriptor.first) = entry_->next;
  Tell(kUnregister, entry_.get());
}

}  // namespace object_loader
