// SPDX-License-Identifier: Apache-2.0
#include "link/memory_pool.h"

#include <llvm/ExecutionEngine/JITLink/JITLink.h>
#include <llvm/Support/FormatVariadic.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>

namespace object_loader {

namespace {

namespace jitlink = llvm::jitlink;
namespace orc = llvm::orc;
using llvm::operator&;

// The areas of a pool's first arena. Each further arena is twice as large, up to kMaxGrowth times.
constexpr Arena::Sizes kFirstArena = {4 << 20, 4 << 20, 4 << 20};
constexpr uint64_t kMaxGrowth = 32;

// 32-bit relocations reach this far, and all areas of an arena must be within reach of each other.
constexpr uint64_t kReach = (uint64_t{1} << 31) - (1 << 20);

// A load with so many constants, or so much data with initial values, goes to an arena for such.
constexpr uint64_t kLargeContent = 256 << 10;
constexpr Arena::Sizes kLargeArena = {2 << 20, 32 << 20, 32 << 20};

Arena::Area AreaOf(orc::MemProt protection) {
  if ((protection & orc::MemProt::Exec) != orc::MemProt::None) return Arena::kCode;
  return (protection & orc::MemProt::Write) != orc::MemProt::None ? Arena::kData
                                                                  : Arena::kConstants;
}

// What the linker is told of these becomes an OutOfMemoryError or, where memory would not help, an
// ObjectLoaderError.
llvm::Error Refused(std::string what, const Refusals& refusals) {
  what += ": " + refusals.text();
  std::errc code = std::errc::not_enough_memory;
  if (!refusals.want_memory()) {
    code = std::errc::permission_denied;
    what +=
        ". A policy of the system's forbids it: SELinux's execmem, a filter of system calls, or "
        "MemoryDenyWriteExecute= of systemd. One of these ways to executable memory has to be "
        "allowed";
  }
  return llvm::make_error<llvm::StringError>(what, std::make_error_code(code));
}

}  // namespace

// The memory of one load.
class MemoryPool::Allocation {
 public:
  Arena* arena = nullptr;
  Arena::Pieces pieces;
  Arena::Sizes fresh = {};  // from this offset on the area still held zeros
  bool finished = false;
  std::vector<orc::shared::WrapperFunctionCall> dealloc_actions;
};

class MemoryPool::InFlight : public JITLinkMemoryManager::InFlightAlloc {
 public:
  InFlight(MemoryPool& pool, jitlink::LinkGraph& graph, std::unique_ptr<Allocation> allocation)
      : pool_(pool), graph_(graph), allocation_(std::move(allocation)) {}

  void finalize(OnFinalizedFunction on_finalized) override {
    Refusals refusals;
    if (!pool_.Finish(*allocation_, refusals)) {
      const Arena::Pieces& pieces = allocation_->pieces;
      uint64_t bytes = pieces[Arena::kCode].size + pieces[Arena::kConstants].size;
      pool_.Give(*allocation_);
      pool_.ReleaseUnused();  // memory may be short
      return on_finalized(Refused(
          llvm::formatv("cannot protect {0} bytes of code and constants", bytes), refusals));
    }
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

 private:
  MemoryPool& pool_;
  jitlink::LinkGraph& graph_;
  std::unique_ptr<Allocation> allocation_;
};

MemoryPool::MemoryPool(bool is_inspected) : is_inspected_(is_inspected) {}

MemoryPool::~MemoryPool() = default;

llvm::Expected<std::unique_ptr<MemoryPool::Allocation>> MemoryPool::Take(
    const Arena::Sizes& sizes, const Arena::Sizes& alignments, Arena::Place place, bool large) {
  Arena::Use use = is_inspected_ ? Arena::Use::kInspectedLoads
                   : large       ? Arena::Use::kLargeLoads
                                 : Arena::Use::kSmallLoads;
  auto allocation = std::make_unique<Allocation>();
  std::lock_guard<Mutex> lock(mutex_);
  for (auto arena = arenas_.rbegin(); arena != arenas_.rend(); ++arena) {
    if ((*arena)->place() != place || (*arena)->use() != use) continue;
    if ((*arena)->Take(sizes, alignments, allocation->pieces, allocation->fresh)) {
      allocation->arena = arena->get();
      return allocation;
    }
  }
  size_t usable =
      static_cast<size_t>(std::count_if(arenas_.begin(), arenas_.end(), [&](const auto& arena) {
        return !arena->shared() && arena->use() == use;
      }));
  uint64_t growth = std::min(uint64_t{1} << std::min<size_t>(usable, 16), kMaxGrowth);
  if (place == Arena::Place::kLow) growth = 1;  // there is 1 GiB of it at most
  Arena::Sizes needed;
  Arena::Sizes wanted;
  uint64_t total = 0;
  for (int area = 0; area < Arena::kAreaCount; ++area) {
    needed[area] = llvm::alignTo(sizes[area] + alignments[area] + Arena::kGranularity, PageSize());
    total += needed[area];
    wanted[area] = std::max(needed[area], large ? kLargeArena[area] : kFirstArena[area] * growth);
    if (large) wanted[area] = llvm::alignTo(wanted[area], kHugePage);
  }
  if (total > kReach) {
    return llvm::make_error<jitlink::JITLinkError>(
        llvm::formatv("needs {0} bytes of memory, more than the 2 GiB that 32-bit relocations "
                      "reach",
                      total)
            .str());
  }
  std::unique_ptr<Arena> arena;
  Refusals refusals;
  for (Arena::Place tried : {place, Arena::Place::kAnywhere}) {
    for (const Arena::Sizes* size : {&wanted, &needed}) {
      if (arena) break;
      refusals = {};
      arena = Arena::Reserve(*size, tried, use, refusals);
    }
  }
  if (!arena) {
    return Refused(llvm::formatv("cannot map {0} bytes for loaded code", total), refusals);
  }
  arena->Take(sizes, alignments, allocation->pieces, allocation->fresh);
  allocation->arena = arena.get();
  arenas_.push_back(std::move(arena));
  return allocation;
}

bool MemoryPool::Finish(Allocation& allocation, Refusals& refusals) {
  std::lock_guard<Mutex> lock(mutex_);
  allocation.finished = true;
  return allocation.arena->Finish(allocation.pieces, refusals);
}

void MemoryPool::Give(const Allocation& allocation) {
  std::lock_guard<Mutex> lock(mutex_);
  allocation.arena->Give(allocation.pieces, allocation.finished);
  if (!allocation.arena->empty()) return;
  // One empty arena of each kind is kept for the next load.
  auto is_reusable = [&](const auto& arena) {
    return !arena->shared() && arena->use() == allocation.arena->use() &&
           arena->place() == allocation.arena->place();
  };
  if (is_reusable(allocation.arena) &&
      std::count_if(arenas_.begin(), arenas_.end(), is_reusable) == 1) {
    return;
  }
  arenas_.erase(std::find_if(arenas_.begin(), arenas_.end(),
                             [&](const auto& arena) { return arena.get() == allocation.arena; }));
}

void MemoryPool::allocate(const jitlink::JITLinkDylib*, jitlink::LinkGraph& graph,
                          OnAllocatedFunction on_allocated) {
  Allocate(graph, Arena::Place::kAnywhere, std::move(on_allocated));
}

void MemoryPool::Allocate(jitlink::LinkGraph& graph, Arena::Place place,
                          OnAllocatedFunction on_allocated) {
  // A block, and where it goes.
  struct Part {
    jitlink::Block* block;
    Arena::Area area;
    uint64_t offset;
  };
  std::vector<Part> parts;
  Arena::Sizes sizes = {};
  Arena::Sizes contents = {};
  Arena::Sizes alignments = {1, 1, 1};
  for (jitlink::Section& section : graph.sections()) {
    Arena::Area area = AreaOf(section.getMemProt());
    // Zeros last: those that nobody has written over yet are left alone.
    for (bool zeros : {false, true}) {
      for (jitlink::Block* block : section.blocks()) {
        if (block->isZeroFill() != zeros) continue;
        uint64_t offset = llvm::alignTo(sizes[area], block->getAlignment());
        alignments[area] = std::max(alignments[area], block->getAlignment());
        sizes[area] = offset + block->getSize();
        if (!zeros) contents[area] = sizes[area];
        parts.push_back({block, area, offset});
      }
    }
  }

  bool large = !is_inspected_ && (contents[Arena::kConstants] >= kLargeContent ||
                                  contents[Arena::kData] >= kLargeContent);
  auto taken = Take(sizes, alignments, place, large);
  if (!taken) return on_allocated(taken.takeError());
  std::unique_ptr<Allocation> allocation = std::move(*taken);
  allocation->arena->Populate(allocation->pieces, contents);
  for (const Part& part : parts) {
    uint64_t size = part.block->getSize();
    uint64_t offset = allocation->pieces[part.area].offset + part.offset;
    part.block->setAddress(
        orc::ExecutorAddr::fromPtr(allocation->arena->address(part.area, offset)));
    char* memory = allocation->arena->writable(part.area, offset);
    if (part.block->isZeroFill()) {
      // A large .bss costs no memory.
      uint64_t used = std::max(offset, allocation->fresh[part.area]);
      std::memset(memory, 0, std::min(size, used - offset));
    } else {
      part.block->setMutableContent({memory, size});
    }
  }
  on_allocated(std::make_unique<InFlight>(*this, graph, std::move(allocation)));
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

bool MemoryPool::Holds(const void* begin, uint64_t size, bool written) const {
  auto place = reinterpret_cast<uintptr_t>(begin);
  std::lock_guard<Mutex> lock(mutex_);
  return std::any_of(arenas_.begin(), arenas_.end(), [&](const auto& arena) {
    return arena->Holds(Arena::kData, place, size) ||
           (!written && arena->Holds(Arena::kConstants, place, size));
  });
}

uint64_t MemoryPool::CodeAreaOf(uint64_t code) const {
  std::lock_guard<Mutex> lock(mutex_);
  for (const auto& arena : arenas_) {
    if (!arena->Holds(Arena::kCode, code, 1)) continue;
    return reinterpret_cast<uint64_t>(arena->address(Arena::kCode, 0));
  }
  return code;
}

MemoryPool::Usage MemoryPool::usage() const {
  std::lock_guard<Mutex> lock(mutex_);
  Usage usage;
  for (const auto& arena : arenas_) {
    usage.code += arena->used(Arena::kCode);
    usage.constants += arena->used(Arena::kConstants);
    usage.data += arena->used(Arena::kData);
    usage.reserved += arena->reserved();
  }
  return usage;
}

}  // namespace object_loader
