// SPDX-License-Identifier: Apache-2.0
#include "arena.h"

#include <llvm/Support/MathExtras.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "fork_lock.h"

namespace object_loader {

namespace {

// A free range whose pages were in use for at least this many bytes gives them back to the system.
constexpr uint64_t kReleaseBytes = 256 << 10;

// The linker's alias of code and constants is dropped from the page tables each time this much was
// written through it; otherwise every page would count twice as resident.
constexpr uint64_t kAliasBytes = 256 << 10;

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int AnonymousFile(uint64_t size) {
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
  int file = memfd_create("object_loader", MFD_CLOEXEC | MFD_EXEC);
  if (file < 0 && errno == EINVAL)
    file = memfd_create("object_loader", MFD_CLOEXEC);  // Linux < 6.3
  if (file >= 0 && ftruncate(file, static_cast<off_t>(size)) != 0) {
    close(file);
    file = -1;
  }
  return file;
}

}  // namespace

uint64_t Arena::PageSize() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

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

Arena::~Arena() {
  if (base_) munmap(base_, total_);
  if (alias_) munmap(alias_, file_size());
}

bool Arena::Map() {
  auto map = [](void* at, uint64_t size, int protection, int flags, int file, uint64_t offset) {
    void* result = mmap(at, size, protection, flags, file, static_cast<off_t>(offset));
    return result == MAP_FAILED ? nullptr : static_cast<char*>(result);
  };
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  int file = AnonymousFile(file_size());
  if (file < 0) return false;
  base_ =
      map(nullptr, total_, PROT_NONE, kPrivate | (place_ == Place::kLow ? MAP_32BIT : 0), -1, 0);
  alias_ = map(nullptr, file_size(), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  bool mapped = base_ && alias_;
  for (Area area : {kCode, kConstants, kData}) {
    bool shared = has_alias(area);
    int protection = area == kCode ? PROT_READ | PROT_EXEC
                     : shared      ? PROT_READ
                                   : PROT_READ | PROT_WRITE;
    mapped = mapped && map(address(area, 0), sizes_[area], protection,
                           MAP_FIXED | (shared ? MAP_SHARED : kPrivate), shared ? file : -1,
                           shared ? start(area) : 0);
  }
  close(file);
  if (mapped && !has_alias(kConstants)) {
    madvise(address(kConstants, 0), sizes_[kConstants], MADV_HUGEPAGE);
  }
  return mapped;
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

void Arena::Populate(const Pieces& pieces, uint64_t constants) const {
  if (has_alias(kConstants) || constants == 0) return;
  char* begin = address(kConstants, llvm::alignDown(pieces[kConstants].offset, PageSize()));
  char* end = address(kConstants, pieces[kConstants].offset + constants);
  madvise(begin, static_cast<size_t>(end - begin), MADV_POPULATE_WRITE);
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
  madvise(writable(area, first), last - first, has_alias(area) ? MADV_REMOVE : MADV_DONTNEED);
  free_[area].ForgetTouched(range.offset);
}

bool Arena::Holds(Area area, uint64_t begin, uint64_t size) const {
  auto start = reinterpret_cast<uintptr_t>(address(area, 0));
  return begin >= start && begin - start <= sizes_[area] && size <= sizes_[area] - (begin - start);
}

int Arena::Finish(const Pieces& pieces) {
  if (!has_alias(kConstants) &&
      mprotect(address(kConstants, 0), sizes_[kConstants], PROT_READ) != 0) {
    return errno;
  }
  written_ += pieces[kCode].size + (has_alias(kConstants) ? pieces[kConstants].size : 0);
  if (written_ < kAliasBytes) return 0;
  written_ = 0;
  madvise(alias_, file_size(), MADV_DONTNEED);
  return 0;
}

}  // namespace object_loader
