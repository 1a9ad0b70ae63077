// SPDX-License-Identifier: Apache-2.0
//
// FreeRanges: which parts of [0, size) are free. Best fit, in O(log n), neighbours joined when
// freed.
#ifndef OBJECT_LOADER_LINK_FREE_RANGES_H_
#define OBJECT_LOADER_LINK_FREE_RANGES_H_

#include <cstdint>
#include <map>
#include <set>
#include <utility>

namespace object_loader {

class FreeRanges {
 public:
  explicit FreeRanges(uint64_t size);
  static constexpr uint64_t kNone = ~uint64_t{0};

  // The offset of `size` bytes, or kNone; `base` and the offset together are a multiple of
  // `alignment`.
  uint64_t Take(uint64_t size, uint64_t alignment, uint64_t base);

  struct Joined {
    uint64_t offset;
    uint64_t size;
    uint64_t touched;  // bytes of it that were in use since the last ForgetTouched
  };
  // Returns the free range that the freed bytes are now part of.
  Joined Give(uint64_t offset, uint64_t size);
  void ForgetTouched(uint64_t offset);
  // Of all free ranges.
  void ForgetTouched();
  // Calls `visit(offset, size)` for all that is taken, neighbours together.
  template <typename Visit>
  void ForEachTaken(Visit visit) const {
    uint64_t begin = 0;
    for (const auto& [offset, range] : by_offset_) {
      if (offset > begin) visit(begin, offset - begin);
      begin = offset + range.size;
    }
    if (size_ > begin) visit(begin, size_ - begin);
  }
  // The size of the free range that begins there; 0 where none does.
  uint64_t SizeAt(uint64_t offset) const;
  // Bytes of all free ranges that were in use since then.
  uint64_t touched() const { return touched_; }

  // Everything from here on was never taken, so its pages still hold the zeros they began with.
  uint64_t high_water() const { return high_water_; }

 private:
  struct Range {
    uint64_t size;
    uint64_t touched;
  };
  void Insert(uint64_t offset, Range range);
  Range Remove(std::map<uint64_t, Range>::iterator range);

  const uint64_t size_;
  std::map<uint64_t, Range> by_offset_;
  std::set<std::pair<uint64_t, uint64_t>> by_size_;  // (size, offset)
  uint64_t high_water_ = 0;
  uint64_t touched_ = 0;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_FREE_RANGES_H_
