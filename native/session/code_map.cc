// SPDX-License-Identifier: Apache-2.0
#include "session/code_map.h"

#include <mutex>

namespace object_loader {

CodeMap& CodeMap::OfProcess() {
  static auto* map = new CodeMap;
  return *map;
}

void CodeMap::Add(AddressRange range, CodeOwner* owner) {
  if (range.begin == range.end) return;
  std::lock_guard<Mutex> lock(mutex_);
  ranges_[range.begin] = {range.end, owner};
}

void CodeMap::Remove(AddressRange range) {
  if (range.begin == range.end) return;
  std::lock_guard<Mutex> lock(mutex_);
  ranges_.erase(range.begin);
}

CodeOwner* CodeMap::Find(uint64_t address) {
  std::lock_guard<Mutex> lock(mutex_);
  auto range = ranges_.upper_bound(address);
  if (range == ranges_.begin()) return nullptr;
  --range;
  return address < range->second.first ? range->second.second : nullptr;
}

}  // namespace object_loader
