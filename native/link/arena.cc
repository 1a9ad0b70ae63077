// SPDX-License-Identifier: Apache-2.0
#include "link/arena.h"

#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/fork_lock.h"
#include "os/unwinder.h"
#include "target/target.h"

namespace object_loader {

namespace {

// A free range whose pages were in use for at least this many bytes gives them back to the system.
constexpr uint64_t kReleaseBytes = 256 << 10;

// An area for large loads keeps pages of so many bytes that are not in use.
constexpr uint64_t kKeptBytes = 8 << 20;

// The linker's alias of code and constants is dropped from the page tables each time this much was
// written through it; otherwise every page would count twice as resident.
constexpr uint64_t kAliasBytes = 256 << 10;

// Of shared memory so much is copied at most: in less time than the fork took. With an arena of its
// own for each such amount, what is reserved stays within a multiple of what is in use.
constexpr uint64_t kCopiedBytes = 1 << 20;

// Whether what runs here is a translation of code that was there before: tried out once.
bool IsCodeTranslated() {
  static const bool is_translated = [] {
    Refusals refusals;
    uint64_t size = PageSize();
    Mapping alias = Mapping::Shared(size, refusals);
    Mapping memory = Mapping::Reserve(size, Mapping::Place::kAnywhere, size, refusals);
    if (!alias || !memory) return false;
    if (!memory.Commit(0, size, Mapping::Access::kExecute, alias, 0, refusals)) return false;
    auto run = [&](llvm::StringRef code) {
      std::memcpy(alias.begin(), code.data(), code.size());
      // A call of the system, after which the processor sees what was written.
      memory.Protect(0, size, Mapping::Access::kExecute, refusals);
      FlushCode(memory.begin(), code.size());
      return reinterpret_cast<int (*)()>(memory.begin())();
    };
    run(kReturnOne);
    return run(kReturnTwo) != 2;
  }();
  return is_translated;
}

}  // namespace

std::unique_ptr<Arena> Arena::Reserve(const Sizes& sizes, Place place, Use use,
                                      Refusals& refusals) {
  std::unique_ptr<Arena> arena(new Arena(sizes, place, use));
  return arena->Map(refusals) ? std::move(arena) : nullptr;
}

Arena::Arena(const Sizes& sizes, Place place, Use use)
    : sizes_(sizes),
      place_(place),
      use_(use),
      free_{FreeRanges(sizes[kCode]), FreeRanges(sizes[kConstants]), FreeRanges(sizes[kData])},
      fork_count_(ForkCount()) {
  for (uint64_t size : sizes) total_ += size;
}

Arena::~Arena() {
  auto code = reinterpret_cast<uintptr_t>(address(kCode, 0));
  UnwindTable::ForgetArea({code, code + sizes_[kCode]});
}

bool Arena::Map(Refusals& refusals) {
  uint64_t alignment = use_ == Use::kLargeLoads ? kHugePage : PageSize();
  memory_ = Mapping::Reserve(total_, place_, alignment, refusals);
  if (!memory_) return false;
  if (use_ != Use::kInspectedLoads) {
    alias_ = Mapping::Shared(start(use_ == Use::kLargeLoads ? kConstants : kData), refusals);
    if (!alias_ && refusals.want_memory()) return false;
  }
  for (Area area : {kCode, kConstants, kData}) {
    const uint64_t begin = start(area);
    if (!(has_alias(area)
              ? memory_.Commit(begin, sizes_[area], FinalAccess(area), alias_, begin, refusals)
              : memory_.Commit(begin, sizes_[area], Access::kWrite, refusals))) {
      return false;
    }
  }
  // Tried out, so that it is known before anything is linked.
  const Piece page = {0, PageSize()};
  return has_alias(kCode) || (Protect(kCode, page, Access::kExecute, refusals) &&
                              Protect(kCode, page, Access::kWrite, refusals));
}

uint64_t Arena::start(Area area) const {
  uint64_t offset = 0;
  for (int before = 0; before < area; ++before) offset += sizes_[before];
  return offset;
}

bool Arena::shared() const { return alias_ && fork_count_ != ForkCount(); }

bool Arena::Unshare() {
  uint64_t forks = ForkCount();
  uint64_t in_use = 0;
  for (Area area : {kCode, kConstants}) in_use += has_alias(area) ? used_[area] : 0;
  // What is still being written, is so through the alias. Only a signal handler forks meanwhile.
  if (in_use > kCopiedBytes || unfinished_ > 0 || IsCodeTranslated()) return false;
  Refusals refusals;
  Mapping alias = Mapping::Shared(alias_.size(), refusals);
  if (!alias) return false;
  std::array<Mapping, kData> twins;
  for (Area area : {kCode, kConstants}) {
    if (!has_alias(area)) continue;
    uint64_t begin = start(area);
    free_[area].ForEachTaken([&](uint64_t offset, uint64_t size) {
      uint64_t page = llvm::alignDown(begin + offset, PageSize());
      alias.Populate(page, begin + offset + size - page);
      std::memcpy(alias.begin() + begin + offset, address(area, offset), size);
    });
    twins[area] = Mapping::Reserve(sizes_[area], Place::kAnywhere, PageSize(), refusals);
    if (!twins[area] ||
        !twins[area].Commit(0, sizes_[area], FinalAccess(area), alias, begin, refusals)) {
      return false;
    }
  }
  auto flush = [&](const char* code) {
    if (!has_alias(kCode)) return;
    free_[kCode].ForEachTaken(
        [&](uint64_t offset, uint64_t size) { FlushCode(code + offset, size); });
  };
  // Before somebody runs it at the old addresses, and there.
  flush(twins[kCode].begin());
  alias.Forget();
  // Where only the first is replaced, the arena is as shared as before, with the same content.
  for (Area area : {kCode, kConstants}) {
    if (!has_alias(area)) continue;
    if (!memory_.Replace(start(area), std::move(twins[area]), refusals)) return false;
    free_[area].ForgetTouched();
  }
  flush(address(kCode, 0));
  alias_ = std::move(alias);
  written_ = 0;
  fork_count_ = forks;
  return true;
}

bool Arena::Renew(const Piece& piece, Refusals& refusals) {
  uint64_t offset = start(kCode) + piece.offset;
  return memory_.Commit(offset, piece.size, Access::kExecute, alias_, offset, refusals);
}

bool Arena::Protect(Area area, const Piece& piece, Access access, Refusals& refusals) {
  return piece.size == 0 ||
         memory_.Protect(start(area) + piece.offset, piece.size, access, refusals);
}

bool Arena::Unprotect(Area area, Piece piece, Refusals& refusals) {
  // With what is free behind it: there are huge pages only where they lie within what may be
  // written.
  if (!piece.has_pages) piece.size += free_[area].SizeAt(piece.offset + piece.size);
  return Protect(area, piece, Access::kWrite, refusals);
}

// One page of 2 MiB is got in less time than a hundred small ones; but an area that holds less than
// that would take more memory than it needs.
void Arena::UseHugePages(Area area, const Piece& piece) {
  if (has_alias(area) || uses_huge_pages_[area] || piece.offset + piece.size < kHugePage) return;
  uses_huge_pages_[area] = true;
  uint64_t begin = llvm::alignDown(piece.offset, kHugePage);
  memory_.UseHugePages(start(area) + begin, sizes_[area] - begin);
}

bool Arena::Take(const Sizes& sizes, const Sizes& alignments, Pieces& pieces, Sizes& fresh) {
  if (shared() && !Unshare()) return false;
  Refusals refusals;
  for (int area = 0; area < kAreaCount; ++area) {
    pieces[area] = {};
    if (sizes[area] == 0) continue;
    fresh[area] = free_[area].high_water();
    bool is_renewed = area == kCode && has_alias(kCode) && IsCodeTranslated();
    uint64_t granularity = is_protected(Area(area)) || is_renewed ? PageSize() : kGranularity;
    uint64_t size = llvm::alignTo(sizes[area], granularity);
    uint64_t touched = free_[area].touched();
    uint64_t offset = free_[area].Take(size, std::max(alignments[area], granularity),
                                       reinterpret_cast<uintptr_t>(address(Area(area), 0)));
    bool found = offset != FreeRanges::kNone;
    if (found) {
      pieces[area] = {offset, size, touched - free_[area].touched() == size};
      used_[area] += size;
    }
    bool usable = found;
    if (found && offset < fresh[area]) {
      if (is_protected(Area(area))) usable = Unprotect(Area(area), pieces[area], refusals);
      if (is_renewed) usable = Renew(pieces[area], refusals);
    }
    if (!usable) {
      for (int taken = 0; taken <= area; ++taken) Return(Area(taken), pieces[taken]);
      return false;
    }
    UseHugePages(Area(area), pieces[area]);
  }
  for (const Piece& piece : std::exchange(let_go_, {})) Free(kCode, piece);
  ++live_;
  ++unfinished_;
  return true;
}

void Arena::Populate(const Pieces& pieces, const Sizes& contents) const {
  for (Area area : {kConstants, kData}) {
    const Piece& piece = pieces[area];
    if (use_ != Use::kLargeLoads || contents[area] == 0 || piece.has_pages) continue;
    uint64_t begin = llvm::alignDown(piece.offset, PageSize());
    memory_.Populate(start(area) + begin, piece.offset + contents[area] - begin);
  }
}

void Arena::Give(const Pieces& pieces, bool finished) {
  if (!finished) --unfinished_;
  for (int area = 0; area < kAreaCount; ++area) Return(Area(area), pieces[area]);
  --live_;
}

void Arena::Return(Area area, const Piece& piece) {
  if (piece.size == 0) return;
  used_[area] -= piece.size;
  // Whoever has kept an address is to notice, as where it is unmapped.
  Refusals refusals;
  if (is_protected(area)) Protect(area, piece, Access::kNone, refusals);
  if (use_ == Use::kInspectedLoads && area == kCode) {
    let_go_.push_back(piece);
  } else {
    Free(area, piece);
  }
}

void Arena::Free(Area area, const Piece& piece) {
  FreeRanges::Joined range = free_[area].Give(piece.offset, piece.size);
  if (has_alias(area) && shared()) return;  // the pages are also another process's
  bool keep = use_ == Use::kLargeLoads && !has_alias(area) ? free_[area].touched() <= kKeptBytes
                                                           : range.touched < kReleaseBytes;
  if (keep) return;
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

bool Arena::Finish(const Pieces& pieces, Refusals& refusals) {
  --unfinished_;
  for (Area area : {kCode, kConstants}) {
    if (has_alias(area)) {
      written_ += pieces[area].size;
    } else if (!Protect(area, pieces[area], FinalAccess(area), refusals)) {
      return false;
    }
  }
  if (pieces[kCode].size != 0) FlushCode(address(kCode, pieces[kCode].offset), pieces[kCode].size);
  if (written_ < kAliasBytes) return true;
  written_ = 0;
  alias_.Forget();
  return true;
}

}  // namespace object_loader
