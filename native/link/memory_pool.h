// SPDX-License-Identifier: Apache-2.0
//
// MemoryPool: the memory that loaded code lives in, as a JITLink memory manager.
//
// It gives blocks their memory, but copies nothing into it: what they hold is written there for the
// first time.
//
// Memory comes in arenas. Everything that one load needs comes from one of them, so its parts are
// within reach of each other however fragmented the address space is.
//
// Code that was compiled without -fPIC names its own parts by 32-bit addresses. For it there are
// arenas in the first 2 GiB of the address space, where they fit; see low().
//
// Concurrency: every method may be called from any thread. After a fork neither process writes
// where the other one's code is; see Arena::Unshare.
#ifndef OBJECT_LOADER_LINK_MEMORY_POOL_H_
#define OBJECT_LOADER_LINK_MEMORY_POOL_H_

#include <llvm/ExecutionEngine/JITLink/JITLinkMemoryManager.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/fork_lock.h"
#include "link/arena.h"

namespace object_loader {

class MemoryPool : public llvm::jitlink::JITLinkMemoryManager {
 public:
  // `is_inspected`: by debuggers and profilers; see Arena::Use.
  explicit MemoryPool(bool is_inspected);
  ~MemoryPool() override;

  using JITLinkMemoryManager::allocate;
  using JITLinkMemoryManager::deallocate;
  void allocate(const llvm::jitlink::JITLinkDylib* dylib, llvm::jitlink::LinkGraph& graph,
                OnAllocatedFunction on_allocated) override;
  void deallocate(std::vector<FinalizedAlloc> allocations,
                  OnDeallocatedFunction on_deallocated) override;
  // Allocates below 2 GiB, or anywhere if there is no room.
  JITLinkMemoryManager& low() { return low_; }

  // Whether the bytes are loaded data or, unless they are to be written, constants.
  bool Holds(const void* begin, uint64_t size, bool written) const;
  // Where the area begins in which this code was allocated.
  uint64_t CodeAreaOf(uint64_t code) const;

  struct Usage {
    uint64_t code = 0;       // bytes in use
    uint64_t constants = 0;  // bytes in use
    uint64_t data = 0;       // bytes in use
    uint64_t reserved = 0;   // bytes of address space
  };
  Usage usage() const;
  // Gives reservations that nothing is loaded in back to the system.
  void ReleaseUnused();

 private:
  class Allocation;
  class InFlight;

  class Low : public JITLinkMemoryManager {
   public:
    explicit Low(MemoryPool& pool) : pool_(pool) {}
    void allocate(const llvm::jitlink::JITLinkDylib*, llvm::jitlink::LinkGraph& graph,
                  OnAllocatedFunction on_allocated) override {
      pool_.Allocate(graph, Arena::Place::kLow, std::move(on_allocated));
    }
    void deallocate(std::vector<FinalizedAlloc> allocations,
                    OnDeallocatedFunction on_deallocated) override {
      pool_.deallocate(std::move(allocations), std::move(on_deallocated));
    }

   private:
    MemoryPool& pool_;
  };

  void Allocate(llvm::jitlink::LinkGraph& graph, Arena::Place place,
                OnAllocatedFunction on_allocated);
  llvm::Expected<std::unique_ptr<Allocation>> Take(const Arena::Sizes& sizes,
                                                   const Arena::Sizes& alignments,
                                                   Arena::Place place, bool large);
  // Everything is written. False where the system refuses to protect it.
  bool Finish(Allocation& allocation, Refusals& refusals);
  void Give(const Allocation& allocation);

  const bool is_inspected_;
  Low low_{*this};
  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Arena>> arenas_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_MEMORY_POOL_H_
