// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <llvm/ExecutionEngine/JITLink/JITLink.h>
#include <llvm/Support/FormatVariadic.h>
#include <llvm/Support/MathExtras.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "error.h"

namespace object_loader {

namespace {

namespace jitlink = llvm::jitlink;
namespace orc = llvm::orc;
using llvm::operator&;
using llvm::operator|;

// Addresses handed out are multiples of this: a cache line, so that two modules never share one.
constexpr uint64_t kGranularity = 64;

// The areas of a pool's first arena. Each further arena is twice as large, up to kMaxGrowth times.
constexpr std::array<uint64_t, MemoryPool::kAreaCount> kFirstArena = {4 << 20, 4 << 20, 4 << 20};
constexpr uint64_t kMaxGrowth = 32;

// 32-bit relocations reach this far, and all areas of an arena must be within reach of each other.
constexpr uint64_t kReach = (uint64_t{1} << 31) - (1 << 20);

// A free range whose pages were in use for at least this many bytes gives them back to the system.
constexpr uint64_t kReleaseBytes = 256 << 10;

// The linker's alias of code and constants is dropped from the page tables each time this much was
// written through it; otherwise every page would count twice as resident.
constexpr uint64_t kAliasBytes = 256 << 10;

uint64_t PageSize() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

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

// One reservation with its three areas. Guarded by the pool's mutex.
class MemoryPool::Arena {
 public:
  // Null where the system has no room for it.
  static std::unique_ptr<Arena> Reserve(const std::array<uint64_t, kAreaCount>& sizes, bool low) {
    std::unique_ptr<Arena> arena(new Arena(sizes, low));
    return arena->Map() ? std::move(arena) : nullptr;
  }

  ~Arena() {
    if (base_) munmap(base_, total_);
    if (alias_) munmap(alias_, sizes_[kCode] + sizes_[kConstants]);
  }

  bool Take(const std::array<uint64_t, kAreaCount>& sizes,
            const std::array<uint64_t, kAreaCount>& alignments,
            std::array<Piece, kAreaCount>& pieces, std::array<uint64_t, kAreaCount>& fresh) {
    if (frozen()) return false;
    for (int area = 0; area < kAreaCount; ++area) {
      pieces[area] = {};
      if (sizes[area] == 0) continue;
      fresh[area] = free_[area].high_water();
      uint64_t size = llvm::alignTo(sizes[area], kGranularity);
      uint64_t offset = free_[area].Take(size, std::max(alignments[area], kGranularity));
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

  void Give(const std::array<Piece, kAreaCount>& pieces) {
    for (int area = 0; area < kAreaCount; ++area) Return(Area(area), pieces[area]);
    --live_;
  }

  // Set apart at a fork: parent and child share the pages of code and constants, so a piece that
  // one of them frees may still be in use in the other.
  bool frozen() const { return fork_count_ != ForkCount(); }
  bool empty() const { return live_ == 0; }
  bool low() const { return low_; }
  uint64_t used(Area area) const { return used_[area]; }
  uint64_t reserved() const { return total_ + sizes_[kCode] + sizes_[kConstants]; }

  char* address(Area area, uint64_t offset) const { return base_ + start(area) + offset; }
  char* writable(Area area, uint64_t offset) const {
    return area == kData ? address(area, offset) : alias_ + start(area) + offset;
  }

  void CountWritten(uint64_t bytes) {
    written_ += bytes;
    if (written_ < kAliasBytes) return;
    written_ = 0;
    madvise(alias_, sizes_[kCode] + sizes_[kConstants], MADV_DONTNEED);
  }

 private:
  Arena(const std::array<uint64_t, kAreaCount>& sizes, bool low)
      : sizes_(sizes),
        low_(low),
        free_{FreeRanges(sizes[kCode]), FreeRanges(sizes[kConstants]), FreeRanges(sizes[kData])},
        fork_count_(ForkCount()) {
    for (uint64_t size : sizes) total_ += size;
  }

  uint64_t start(Area area) const {
    uint64_t offset = 0;
    for (int before = 0; before < area; ++before) offset += sizes_[before];
    return offset;
  }

  bool Map() {
    auto map = [](void* at, uint64_t size, int protection, int flags, int file, uint64_t offset) {
      void* result = mmap(at, size, protection, flags, file, static_cast<off_t>(offset));
      return result == MAP_FAILED ? nullptr : static_cast<char*>(result);
    };
    uint64_t shared = sizes_[kCode] + sizes_[kConstants];
    int file = AnonymousFile(shared);
    if (file < 0) return false;
    base_ = map(nullptr, total_, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (low_ ? MAP_32BIT : 0), -1, 0);
    alias_ = map(nullptr, shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    bool mapped =
        base_ && alias_ &&
        map(base_, sizes_[kCode], PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, file, 0) &&
        map(base_ + sizes_[kCode], sizes_[kConstants], PROT_READ, MAP_SHARED | MAP_FIXED, file,
            sizes_[kCode]) &&
        map(base_ + shared, sizes_[kData], PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    close(file);
    return mapped;
  }

  void Return(Area area, const Piece& piece) {
    if (piece.size == 0) return;
    used_[area] -= piece.size;
    if (frozen()) return;
    FreeRanges::Joined range = free_[area].Give(piece.offset, piece.size);
    if (range.touched < kReleaseBytes) return;
    uint64_t first = llvm::alignTo(range.offset, PageSize());
    uint64_t last = llvm::alignDown(range.offset + range.size, PageSize());
    if (first >= last) return;
    madvise(writable(area, first), last - first, area == kData ? MADV_DONTNEED : MADV_REMOVE);
    free_[area].ForgetTouched(range.offset);
  }

  std::array<uint64_t, kAreaCount> sizes_;
  bool low_;
  std::array<FreeRanges, kAreaCount> free_;
  std::array<uint64_t, kAreaCount> used_ = {};
  uint64_t fork_count_;
  uint64_t total_ = 0;
  uint64_t live_ = 0;
  uint64_t written_ = 0;
  char* base_ = nullptr;
  char* alias_ = nullptr;
};

// The memory of one load.
class MemoryPool::Allocation {
 public:
  Arena* arena = nullptr;
  std::array<Piece, kAreaCount> pieces;
  std::array<uint64_t, kAreaCount> fresh = {};  // from this offset on the area still held zeros
  std::vector<orc::shared::WrapperFunctionCall> dealloc_actions;
};

class MemoryPool::InFlight : public JITLinkMemoryManager::InFlightAlloc {
 public:
  InFlight(MemoryPool& pool, jitlink::LinkGraph& graph, std::unique_ptr<Allocation> allocation)
      : pool_(pool), graph_(graph), allocation_(std::move(allocation)) {}

  void finalize(OnFinalizedFunction on_finalized) override {
    if (!graph_.allocActions().empty()) {
      auto actions = orc::shared::runFinalizeActions(graph_.allocActions());
      if (!actions) {
        pool_.Give(*allocation_);
        return on_finalized(actions.takeError());
      }
      allocation_->dealloc_actions = std::move(*actions);
    }
    on_finalized(FinalizedAlloc(orc::ExecutorAddr::fromPtr(allocation_.release())));
  }

  void abandon(OnAbandonedFunction on_abandoned) override {
    pool_.Give(*allocation_);
    on_abandoned(llvm::Error::success());
  }

  Arena& arena() { return *allocation_->arena; }

 private:
  MemoryPool& pool_;
  jitlink::LinkGraph& graph_;
  std::unique_ptr<Allocation> allocation_;
};

MemoryPool::MemoryPool() = default;

MemoryPool::~MemoryPool() = default;

std::unique_ptr<MemoryPool::Allocation> MemoryPool::Take(
    const std::array<uint64_t, kAreaCount>& sizes,
    const std::array<uint64_t, kAreaCount>& alignments, bool low) {
  auto allocation = std::make_unique<Allocation>();
  std::lock_guard<Mutex> lock(mutex_);
  for (auto arena = arenas_.rbegin(); arena != arenas_.rend(); ++arena) {
    if ((*arena)->low() != low) continue;
    if ((*arena)->Take(sizes, alignments, allocation->pieces, allocation->fresh)) {
      allocation->arena = arena->get();
      return allocation;
    }
  }
  size_t usable = static_cast<size_t>(std::count_if(
      arenas_.begin(), arenas_.end(), [](const auto& arena) { return !arena->frozen(); }));
  uint64_t growth = std::min(uint64_t{1} << std::min<size_t>(usable, 16), kMaxGrowth);
  if (low) growth = 1;  // there is 1 GiB of it at most
  std::array<uint64_t, kAreaCount> needed;
  std::array<uint64_t, kAreaCount> wanted;
  uint64_t total = 0;
  for (int area = 0; area < kAreaCount; ++area) {
    needed[area] = llvm::alignTo(sizes[area] + alignments[area] + kGranularity, PageSize());
    wanted[area] = std::max(needed[area], kFirstArena[area] * growth);
    total += needed[area];
  }
  if (total > kReach) {
    throw LinkError(llvm::formatv("needs {0} bytes of memory, more than the 2 GiB that 32-bit "
                                  "relocations reach",
                                  total)
                        .str());
  }
  std::unique_ptr<Arena> arena;
  if (low) arena = Arena::Reserve(wanted, low);
  if (low && !arena) arena = Arena::Reserve(needed, low);
  if (!arena) arena = Arena::Reserve(wanted, false);
  if (!arena) arena = Arena::Reserve(needed, false);
  if (!arena) {
    throw OutOfMemoryError(
        llvm::formatv("cannot map {0} bytes for loaded code: {1}", total, std::strerror(errno))
            .str());
  }
  arena->Take(sizes, alignments, allocation->pieces, allocation->fresh);
  allocation->arena = arena.get();
  arenas_.push_back(std::move(arena));
  return allocation;
}

void MemoryPool::Give(const Allocation& allocation) {
  std::lock_guard<Mutex> lock(mutex_);
  allocation.arena->Give(allocation.pieces);
  // One empty arena is kept for the next load.
  if (!allocation.arena->empty() || (arenas_.size() == 1 && !allocation.arena->frozen())) return;
  arenas_.erase(std::find_if(arenas_.begin(), arenas_.end(),
                             [&](const auto& arena) { return arena.get() == allocation.arena; }));
}

void MemoryPool::allocate(const jitlink::JITLinkDylib*, jitlink::LinkGraph& graph,
                          OnAllocatedFunction on_allocated) {
  Allocate(graph, /*low=*/false, std::move(on_allocated));
}

void MemoryPool::Allocate(jitlink::LinkGraph& graph, bool low, OnAllocatedFunction on_allocated) {
  jitlink::BasicLayout layout(graph);
  std::array<uint64_t, kAreaCount> sizes = {};
  std::array<uint64_t, kAreaCount> alignments = {1, 1, 1};
  auto area_of = [](orc::MemProt protection) {
    if ((protection & orc::MemProt::Exec) != orc::MemProt::None) return kCode;
    return (protection & orc::MemProt::Write) != orc::MemProt::None ? kData : kConstants;
  };
  for (auto& [group, segment] : layout.segments()) {
    orc::MemProt both = orc::MemProt::Write | orc::MemProt::Exec;
    if ((group.getMemProt() & both) == both) {
      return on_allocated(llvm::make_error<jitlink::JITLinkError>(
          "a section is both writable and executable, which is refused"));
    }
    Area area = area_of(group.getMemProt());
    uint64_t alignment = segment.Alignment.value();
    alignments[area] = std::max(alignments[area], alignment);
    sizes[area] =
        llvm::alignTo(sizes[area], alignment) + segment.ContentSize + segment.ZeroFillSize;
  }

  std::unique_ptr<Allocation> allocation;
  try {
    allocation = Take(sizes, alignments, low);
  } catch (const OutOfMemoryError& error) {
    return on_allocated(llvm::make_error<llvm::StringError>(
        error.what(), std::make_error_code(std::errc::not_enough_memory)));
  } catch (const LinkError& error) {
    return on_allocated(llvm::make_error<jitlink::JITLinkError>(error.what()));
  }

  std::array<uint64_t, kAreaCount> used = {};
  for (auto& [group, segment] : layout.segments()) {
    Area area = area_of(group.getMemProt());
    used[area] = llvm::alignTo(used[area], segment.Alignment.value());
    uint64_t offset = allocation->pieces[area].offset + used[area];
    segment.Addr = orc::ExecutorAddr::fromPtr(allocation->arena->address(area, offset));
    segment.WorkingMem = allocation->arena->writable(area, offset);
    // Zeros that nobody has written over yet are left alone: a large .bss costs no memory.
    uint64_t zeros = offset + segment.ContentSize;
    uint64_t zeros_end =
        std::min(zeros + segment.ZeroFillSize, std::max(zeros, allocation->fresh[area]));
    std::memset(segment.WorkingMem + segment.ContentSize, 0, zeros_end - zeros);
    used[area] += segment.ContentSize + segment.ZeroFillSize;
  }
  auto in_flight = std::make_unique<InFlight>(*this, graph, std::move(allocation));
  if (llvm::Error error = layout.apply()) {
    return in_flight->abandon([&](llvm::Error more) {
      on_allocated(llvm::joinErrors(std::move(error), std::move(more)));
    });
  }
  {
    std::lock_guard<Mutex> lock(mutex_);
    in_flight->arena().CountWritten(sizes[kCode] + sizes[kConstants]);
  }
  on_allocated(std::move(in_flight));
}

void MemoryPool::deallocate(std::vector<FinalizedAlloc> allocations,
                            OnDeallocatedFunction on_deallocated) {
  llvm::Error errors = llvm::Error::success();
  for (auto finalized = allocations.rbegin(); finalized != allocations.rend(); ++finalized) {
    std::unique_ptr<Allocation> allocation(finalized->release().toPtr<Allocation*>());
    errors = llvm::joinErrors(std::move(errors),
                              orc::shared::runDeallocActions(allocation->dealloc_actions));
    Give(*allocation);
  }
  on_deallocated(std::move(errors));
}

void MemoryPool::ReleaseUnused() {
  std::lock_guard<Mutex> lock(mutex_);
  arenas_.erase(std::remove_if(arenas_.begin(), arenas_.end(),
                               [](const auto& arena) { return arena->empty(); }),
                arenas_.end());
}

MemoryPool::Usage MemoryPool::usage() const {
  std::lock_guard<Mutex> lock(mutex_);
  Usage usage;
  for (const auto& arena : arenas_) {
    usage.code += arena->used(kCode);
    usage.constants += arena->used(kConstants);
    usage.data += arena->used(kData);
    usage.reserved += arena->reserved();
  }
  return usage;
}

}  // namespace object_loader
