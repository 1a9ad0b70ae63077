// SPDX-License-Identifier: Apache-2.0
//
// MemoryPool: the memory that loaded code lives in, as a JITLink memory manager.
//
// Memory comes in arenas. An arena is one reservation of address space with three areas: code
// (readable, executable), constants (readable) and data (readable, writable). Everything that one
// load needs comes from one arena, so its parts are within reach of 32-bit relocations however
// fragmented the address space is. Code and constants are pages of an anonymous file which is
// mapped a second time, writable, at an unrelated address: the linker writes through that alias,
// and no page is ever both writable and executable. Modules share pages, so a small module costs
// its own size and no system call; a larger run of freed pages goes back to the system.
//
// Code that was compiled without -fPIC names its own parts by 32-bit addresses. For it there are
// arenas in the first 2 GiB of the address space, where they fit; see low().
//
// Concurrency: every method may be called from any thread. After a fork the shared pages belong to
// both processes, so neither reuses them: arenas from before are only emptied (see Arena::frozen).
#ifndef OBJECT_LOADER_MEMORY_H_
#define OBJECT_LOADER_MEMORY_H_

#include <llvm/ExecutionEngine/JITLink/JITLinkMemoryManager.h>

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "fork_lock.h"
#include "free_ranges.h"

namespace object_loader {

class MemoryPool : public llvm::jitlink::JITLinkMemoryManager {
 public:
  MemoryPool();
  ~MemoryPool() override;

  using JITLinkMemoryManager::allocate;
  using JITLinkMemoryManager::deallocate;
  void allocate(const llvm::jitlink::JITLinkDylib* dylib, llvm::jitlink::LinkGraph& graph,
                OnAllocatedFunction on_allocated) override;
  void deallocate(std::vector<FinalizedAlloc> allocations,
                  OnDeallocatedFunction on_deallocated) override;
  // Allocates below 2 GiB, or anywhere if there is no room.
  JITLinkMemoryManager& low() { return low_; }

  struct Usage {
    uint64_t code = 0;       // bytes in use
    uint64_t constants = 0;  // bytes in use
    uint64_t data = 0;       // bytes in use
    uint64_t reserved = 0;   // bytes of address space
  };
  Usage usage() const;
  // Gives reservations that nothing is loaded in back to the system.
  void ReleaseUnused();

  enum Area { kCode, kConstants, kData, kAreaCount };
  struct Piece {
    uint64_t offset = 0;
    uint64_t size = 0;  // 0: nothing
  };

 private:
  class Arena;
  class Allocation;
  class InFlight;

  class Low : public JITLinkMemoryManager {
   public:
    explicit Low(MemoryPool& pool) : pool_(pool) {}
    void allocate(const llvm::jitlink::JITLinkDylib*, llvm::jitlink::LinkGraph& graph,
                  OnAllocatedFunction on_allocated) override {
      pool_.Allocate(graph, /*low=*/true, std::move(on_allocated));
    }
    void deallocate(std::vector<FinalizedAlloc> allocations,
                    OnDeallocatedFunction on_deallocated) override {
      pool_.deallocate(std::move(allocations), std::move(on_deallocated));
    }

   private:
    MemoryPool& pool_;
  };

  void Allocate(llvm::jitlink::LinkGraph& graph, bool low, OnAllocatedFunction on_allocated);
  // Throws OutOfMemoryError.
  std::unique_ptr<Allocation> Take(const std::array<uint64_t, kAreaCount>& sizes,
                                   const std::array<uint64_t, kAreaCount>& alignments, bool low);
  void Give(const Allocation& allocation);

  Low low_{*this};
  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Arena>> arenas_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_MEMORY_H_
