// SPDX-License-Identifier: Apache-2.0
#include "link/memory_pool.h"

#include <llvm/ExecutionEngine/JITLink/JITLink.h>
#include <llvm/Support/FormatVariadic.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"

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

// A load with so many constants, or so much data with initial values, has an arena of its own.
constexpr uint64_t kLargeContent = 256 << 10;

Arena::Area AreaOf(orc::MemProt protection) {
  if ((protection & orc::MemProt::Exec) != orc::MemProt::None) return Arena::kCode;
  return (protection & orc::MemProt::Write) != orc::MemProt::None ? Arena::kData
                                                                  : Arena::kConstants;
}

llvm::Error OutOfMemory(const std::string& message) {
  return llvm::make_error<llvm::StringError>(message,
                                             std::make_error_code(std::errc::not_enough_memory));
}

}  // namespace

// The memory of one load.
class MemoryPool::Allocation {
 public:
  Arena* arena = nullptr;
  Arena::Pieces pieces;
  Arena::Sizes fresh = {};  // from this offset on the area still held zeros
  std::vector<orc::shared::WrapperFunctionCall> dealloc_actions;
};

class MemoryPool::InFlight : public JITLinkMemoryManager::InFlightAlloc {
 public:
  InFlight(MemoryPool& pool, jitlink::LinkGraph& graph, std::unique_ptr<Allocation> allocation)
      : pool_(pool), graph_(graph), allocation_(std::move(allocation)) {}

  void finalize(OnFinalizedFunction on_finalized) override {
    if (int error = pool_.Finish(*allocation_)) {
      uint64_t bytes = allocation_->pieces[Arena::kConstants].size;
      pool_.Give(*allocation_);
      return on_finalized(OutOfMemory(
          llvm::formatv("cannot protect {0} bytes of constants: {1}", bytes, std::strerror(error))
              .str()));
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

MemoryPool::MemoryPool() = default;

MemoryPool::~MemoryPool() = default;

std::unique_ptr<MemoryPool::Allocation> MemoryPool::Take(const Arena::Sizes& sizes,
                                                         const Arena::Sizes& alignments,
                                                         Arena::Place place, bool large) {
  Arena::Use use = large ? Arena::Use::kOneLargeLoad : Arena::Use::kManyLoads;
  auto allocation = std::make_unique<Allocation>();
  std::lock_guard<Mutex> lock(mutex_);
  for (auto arena = arenas_.rbegin(); !large && arena != arenas_.rend(); ++arena) {
    if ((*arena)->place() != place || (*arena)->use() != use) continue;
    if ((*arena)->Take(sizes, alignments, allocation->pieces, allocation->fresh)) {
      allocation->arena = arena->get();
      return allocation;
    }
  }
  size_t usable =
      static_cast<size_t>(std::count_if(arenas_.begin(), arenas_.end(), [&](const auto& arena) {
        return !arena->frozen() && arena->use() == use;
      }));
  uint64_t growth = std::min(uint64_t{1} << std::min<size_t>(usable, 16), kMaxGrowth);
  if (place == Arena::Place::kLow) growth = 1;  // there is 1 GiB of it at most
  Arena::Sizes needed;
  Arena::Sizes wanted;
  uint64_t total = 0;
  for (int area = 0; area < Arena::kAreaCount; ++area) {
    needed[area] = llvm::alignTo(sizes[area] + alignments[area] + Arena::kGranularity, PageSize());
    wanted[area] = large ? needed[area] : std::max(needed[area], kFirstArena[area] * growth);
    total += needed[area];
  }
  if (total > kReach) {
    throw LinkError(llvm::formatv("needs {0} bytes of memory, more than the 2 GiB that 32-bit "
                                  "relocations reach",
                                  total)
                        .str());
  }
  std::unique_ptr<Arena> arena;
  for (Arena::Place tried : {place, Arena::Place::kAnywhere}) {
    for (const Arena::Sizes* size : {&wanted, &needed}) {
      if (!arena) arena = Arena::Reserve(*size, tried, use);
    }
  }
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

int MemoryPool::Finish(const Allocation& allocation) {
  std::lock_guard<Mutex> lock(mutex_);
  return allocation.arena->Finish(allocation.pieces);
}

void MemoryPool::Give(const Allocation& allocation) {
  std::lock_guard<Mutex> lock(mutex_);
  allocation.arena->Give(allocation.pieces);
  if (!allocation.arena->empty()) return;
  // One empty arena of each place is kept for the next load.
  auto is_reusable = [&](const auto& arena) {
    return !arena->frozen() && arena->use() == Arena::Use::kManyLoads &&
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

  std::unique_ptr<Allocation> allocation;
  try {
    bool large =
        contents[Arena::kConstants] >= kLargeContent || contents[Arena::kData] >= kLargeContent;
    allocation = Take(sizes, alignments, place, large);
  } catch (const OutOfMemoryError& error) {
    return on_allocated(OutOfMemory(error.what()));
  } catch (const LinkError& error) {
    return on_allocated(llvm::make_error<jitlink::JITLinkError>(error.what()));
  }

  allocation->arena->Populate(allocation->pieces, contents[Arena::kConstants],
                              contents[Arena::kData]);
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
