// SPDX-License-Identifier: Apache-2.0
#include "link/free_ranges.h"

#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace object_loader {

FreeRanges::FreeRanges(uint64_t size) : size_(size) {
  if (size) Insert(0, {size, 0});
}

void FreeRanges::Insert(uint64_t offset, Range range) {
  by_offset_[offset] = range;
  by_size_.insert({range.size, offset});
  touched_ += range.touched;
}

FreeRanges::Range FreeRanges::Remove(std::map<uint64_t, Range>::iterator range) {
  Range removed = range->second;
  by_size_.erase({removed.size, range->first});
  by_offset_.erase(range);
  touched_ -= removed.touched;
  return removed;
}

uint64_t FreeRanges::Take(uint64_t size, uint64_t alignment, uint64_t base) {
  for (auto fit = by_size_.lower_bound({size, 0}); fit != by_size_.end(); ++fit) {
    uint64_t offset = fit->second;
    uint64_t aligned = llvm::alignTo(base + offset, alignment) - base;
    uint64_t end = aligned + size;
    if (end > offset + fit->first) continue;
    Range range = Remove(by_offset_.find(offset));
    // What was touched can lie in any part; as ranges are taken from their front, it is there.
    uint64_t before = aligned - offset;
    uint64_t after = offset + range.size - end;
    uint64_t touched_before = std::min(range.touched, before);
    uint64_t touched_size = std::min(range.touched - touched_before, size);
    uint64_t touched_after = range.touched - touched_before - touched_size;
    if (before) Insert(offset, {before, touched_before});
    if (after) Insert(end, {after, touched_after});
    high_water_ = std::max(high_water_, end);
    return aligned;
  }
  return kNone;
}

FreeRanges::Joined FreeRanges::Give(uint64_t offset, uint64_t size) {
  Range joined{size, size};
  auto next = by_offset_.lower_bound(offset);
  if (next != by_offset_.end() && next->first == offset + size) {
    auto after = next++;
    Range range = Remove(after);
    joined.size += range.size;
    joined.touched += range.touched;
  }
  if (next != by_offset_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second.size == offset) {
      offset = previous->first;
      Range range = Remove(previous);
      joined.size += range.size;
      joined.touched += range.touched;
    }
  }
  Insert(offset, joined);
  return {offset, joined.size, joined.touched};
}

uint64_t FreeRanges::SizeAt(uint64_t offset) const {
  auto range = by_offset_.find(offset);
  return range == by_offset_.end() ? 0 : range->second.size;
}

void FreeRanges::ForgetTouched(uint64_t offset) {
  touched_ -= std::exchange(by_offset_.at(offset).touched, 0);
}

void FreeRanges::ForgetTouched() {
  for (auto& [offset, range] : by_offset_) range.touched = 0;
  touched_ = 0;
}

}  // namespace object_loader
