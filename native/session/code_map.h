// SPDX-License-Identifier: Apache-2.0
//
// CodeMap: whose code is where, in all sessions of the process.
//
// Concurrency: every method may be called from any thread.
#ifndef OBJECT_LOADER_SESSION_CODE_MAP_H_
#define OBJECT_LOADER_SESSION_CODE_MAP_H_

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

  // The owner lives for as long as its code is there. An empty range is not kept.
  void Add(AddressRange range, CodeOwner* owner);
  void Remove(AddressRange range);
  // Null where the address is in no loaded code.
  CodeOwner* Find(uint64_t address);

 private:
  Mutex mutex_;
  std::map<uint64_t, std::pair<uint64_t, CodeOwner*>> ranges_;  // by where they begin
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CODE_MAP_H_
