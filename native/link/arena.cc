// SPDX-License-Identifier: Apache-2.0
#include "link/arena.h"

#include <llvm/Support/MathExtras.h>

#include <algorithm>

#include "base/fork_lock.h"

namespace object_loader {

namespace {

// A free range whose pages were in use for at least this many bytes gives them back to the system.
constexpr uint64_t kReleaseBytes = 256 << 10;

// The linker's alias of code and constants is dropped from the page tables each time this much was
// written through it; otherwise every page would count twice as resident.
constexpr uint64_t kAliasBytes = 256 << 10;

}  // namespace

std::unique_ptr<Arena> Arena::Reserve(const Sizes& sizes, Place place, Use use) {
  std::unique_ptr<Arena> arena(new Arena(sizes, place, use));
  return arena->Map() ? std::move(arena) : nullptr;
}

Arena::Arena(const Sizes& sizes, Place place, Use use)
    : sizes_(sizes),
      place_(place),
      use_(use),
      free_{FreeRanges(sizes[kCode]), FreeRanges(sizes[kConstants]), FreeRanges(sizes[kData])},
      fork_count_(ForkCount()) {
  for (uint64_t size : sizes) total_ += size;
}

bool Arena::Map() {
  AnonymousFile file("object_loader", file_size(), /*executable=*/true);
  if (!file) return false;
  memory_ = Mapping::Reserve(total_, place_);
  alias_ = Mapping::OfFile(file, file_size());
  if (!memory_ || !alias_) return false;
  for (Area area : {kCode, kConstants, kData}) {
    using Access = Mapping::Access;
    bool shared = has_alias(area);
    Access access = area == kCode ? Access::kExecute : shared ? Access::kRead : Access::kWrite;
    bool mapped = shared ? memory_.Commit(start(area), sizes_[area], access, file, start(area))
                         : memory_.Commit(start(area), sizes_[area], access);
    if (!mapped) return false;
  }
  if (use_ == Use::kOneLargeLoad) {
    memory_.UseHugePages(start(kConstants), sizes_[kConstants] + sizes_[kData]);
  }
  return true;
}

uint64_t Arena::start(Area area) const {
  uint64_t offset = 0;
  for (int before = 0; before < area; ++before) offset += sizes_[before];
  return offset;
}

bool Arena::frozen() const { return fork_count_ != ForkCount(); }

bool Arena::Take(const Sizes& sizes, const Sizes& alignments, Pieces& pieces, Sizes& fresh) {
  if (frozen()) return false;
  for (int area = 0; area < kAreaCount; ++area) {
    pieces[area] = {};
    if (sizes[area] == 0) continue;
    fresh[area] = free_[area].high_water();
    uint64_t size = llvm::alignTo(sizes[area], kGranularity);
    uint64_t offset = free_[area].Take(size, std::max(alignments[area], kGranularity),
                                       reinterpret_cast<uintptr_t>(address(Area(area), 0)));
    if (offset == FreeRanges::kNone) {
      for (int taken = 0; taken < area; ++taken) Return(Area(taken), pieces[taken]);
      return false;
    }
    pieces[area] = {offset, size};
    used_[area] += size;
  }
  ++live_;
  return true;
}

void Arena::Populate(const Pieces& pieces, uint64_t constants, uint64_t data) const {
  if (use_ != Use::kOneLargeLoad) return;
  auto populate = [&](Area area, uint64_t size) {
    if (size == 0) return;
    uint64_t begin = llvm::alignDown(pieces[area].offset, PageSize());
    memory_.Populate(start(area) + begin, pieces[area].offset + size - begin);
  };
  populate(kConstants, constants);
  populate(kData, data);
}

void Arena::Give(const Pieces& pieces) {
  for (int area = 0; area < kAreaCount; ++area) Return(Area(area), pieces[area]);
  --live_;
}

void Arena::Return(Area area, const Piece& piece) {
  if (piece.size == 0) return;
  used_[area] -= piece.size;
  if (frozen() || use_ == Use::kOneLargeLoad) return;
  FreeRanges::Joined range = free_[area].Give(piece.offset, piece.size);
  if (range.touched < kReleaseBytes) return;
  uint64_t first = llvm::alignTo(range.offset, PageSize());
  uint64_t last = llvm::alignDown(range.offset + range.size, PageSize());
  if (first >= last) return;
  (has_alias(area) ? alias_ : memory_).Discard(start(area) + first, last - first, has_alias(area));
  free_[area].ForgetTouched(range.offset);
}

bool Arena::Holds(Area area, uint64_t begin, uint64_t size) const {
  auto start = reinterpret_cast<uintptr_t>(address(area, 0));
  return begin >= start && begin - start <= sizes_[area] && size <= sizes_[area] - (begin - start);
}

int Arena::Finish(const Pieces& pieces) {
  if (!has_alias(kConstants)) {
    using Access = Mapping::Access;
    int error = memory_.Protect(start(kConstants), sizes_[kConstants], Access::kRead);
    if (error) return error;
  }
  written_ += pieces[kCode].size + (has_alias(kConstants) ? pieces[kConstants].size : 0);
  if (written_ < kAliasBytes) return 0;
  written_ = 0;
  alias_.Forget();
  return 0;
}

}  // namespace object_loader
