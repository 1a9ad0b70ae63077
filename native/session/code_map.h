// SPDX-License-Identifier: Apache-2.0
//
// CodeMap: whose code is where, in all sessions of the process.
//
// Concurrency: every method may be called from any thread.
#ifndef OBJECT_LOADER_SESSION_CODE_MAP_H_
#define OBJECT_LOADER_SESSION_CODE_MAP_H_

#include <llvm/ADT/STLFunctionalExtras.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <utility>

#include "base/fork_lock.h"
#include "os/thread_exit.h"
#include "os/unwinder.h"

namespace object_loader {

class CodeMap {
 public:
  // Never destroyed: loaded code may outlive everything else.
  static CodeMap& OfProcess();

  // Grows with each range that is added, before its code can run.
  static uint64_t Version() { return version_.load(std::memory_order_acquire); }

  // The owner lives for as long as its code is there. An empty range is not kept.
  void Add(AddressRange range, CodeOwner* owner);
  void Remove(AddressRange range);
  // Null where the address is in no loaded code.
  CodeOwner* Find(uint64_t address);
  // Calls `visit` with whoever Find finds, whose code stays meanwhile; false where it finds nobody.
  bool Visit(uint64_t address, llvm::function_ref<void(CodeOwner&)> visit);

 private:
  CodeOwner* FindLocked(uint64_t address) const;

  static inline std::atomic<uint64_t> version_{0};
  Mutex mutex_;
  std::map<uint64_t, std::pair<uint64_t, CodeOwner*>> ranges_;  // by where they begin
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CODE_MAP_H_
