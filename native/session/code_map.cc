// SPDX-License-Identifier: Apache-2.0
#include "session/code_map.h"

#include <mutex>

namespace object_loader {

CodeMap& CodeMap::OfProcess() {
  static auto* map = [] {
    CodeOwner::FindByAddress = [](const void* address) {
      return OfProcess().Find(reinterpret_cast<uintptr_t>(address));
    };
    return new CodeMap;
  }();
  return *map;
}

void CodeMap::Add(AddressRange range, CodeOwner* owner) {
  if (range.begin == range.end) return;
  std::lock_guard<Mutex> lock(mutex_);
  ranges_[range.begin] = {range.end, owner};
  version_.fetch_add(1, std::memory_order_release);
}

void CodeMap::Remove(AddressRange range) {
  if (range.begin == range.end) return;
  std::lock_guard<Mutex> lock(mutex_);
  ranges_.erase(range.begin);
}

CodeOwner* CodeMap::Find(uint64_t address) {
  std::lock_guard<Mutex> lock(mutex_);
  return FindLocked(address);
}

bool CodeMap::Visit(uint64_t address, llvm::function_ref<void(CodeOwner&)> visit) {
  std::lock_guard<Mutex> lock(mutex_);
  CodeOwner* owner = FindLocked(address);
  if (owner) visit(*owner);
  return owner != nullptr;
}

CodeOwner* CodeMap::FindLocked(uint64_t address) const {
  auto range = ranges_.upper_bound(address);
  if (range == ranges_.begin()) return nullptr;
  --range;
  return address < range->second.first ? range->second.second : nullptr;
}

}  // namespace object_loader
