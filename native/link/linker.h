// SPDX-License-Identifier: Apache-2.0
//
// Linker: the ORC stack of one session: an ExecutionSession, and JITLink over the session's
// MemoryPool. There is no LLJIT, no code generator, no ORC runtime.
//
// One load is one materialization with a resource tracker of its own; it defines a single symbol,
// the load's name, in a JITDylib that many of them share. So ORC runs the link and owns its result,
// while symbols are looked up in the tables of session/. (Handing ORC every symbol costs most of a
// load, and in LLVM 22 grows faster than their number: llvm/llvm-project#179611. A JITDylib with
// symbols in it takes some 9 kB of tables; and its tables double when they are full, which with
// 50,000 loads in one took 5 ms at once.) JITLink drives the link and allocates; the graph has a
// few blocks and no edges, since relocations are applied by the Relocator.
//
// Concurrency: every method may be called from any thread. Links run on a thread that asks for one.
// This is the only file that knows versions of LLVM apart.
#ifndef OBJECT_LOADER_LINK_LINKER_H_
#define OBJECT_LOADER_LINK_LINKER_H_

#include <llvm/ADT/DenseMap.h>
#include <llvm/ExecutionEngine/Orc/Core.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/fork_lock.h"
#include "link/graph_builder.h"
#include "link/image.h"
#include "link/memory_pool.h"

namespace object_loader {

// Gives a load's memory back when ORC removes the load's tracker.
class LoadMemory : public llvm::orc::ResourceManager {
 public:
  explicit LoadMemory(bool is_inspected) : pool_(is_inspected) {}
  MemoryPool& pool() { return pool_; }

  llvm::Error Record(llvm::orc::MaterializationResponsibility& responsibility,
                     llvm::jitlink::JITLinkMemoryManager::FinalizedAlloc allocation);

  llvm::Error handleRemoveResources(llvm::orc::JITDylib& dylib,
                                    llvm::orc::ResourceKey key) override;
  // Trackers are never merged.
  void handleTransferResources(llvm::orc::JITDylib&, llvm::orc::ResourceKey,
                               llvm::orc::ResourceKey) override {}

 private:
  using Allocations =
      llvm::DenseMap<llvm::orc::ResourceKey, llvm::jitlink::JITLinkMemoryManager::FinalizedAlloc>;

  MemoryPool pool_;
  Mutex mutex_;
  // One load, one tracker, one allocation.
  llvm::DenseMap<const llvm::orc::JITDylib*, Allocations> allocations_;
};

class Linker {
 public:
  // `is_inspected`: by debuggers and profilers, for which images have a DebugImage.
  explicit Linker(bool is_inspected);
  ~Linker();

  MemoryPool& memory() { return memory_.pool(); }

  // Links what was planned; `definitions` are the globals whose addresses the image is to have.
  // Throws LinkError, ObjectFormatError, FileError, OutOfMemoryError, and ObjectLoaderError where
  // the system lets nothing become executable; nothing is left behind then.
  Image Link(GraphBuilder& builder, const std::vector<uint32_t>& definitions);
  // Forgets the image's unwind tables and gives its memory back.
  void Unlink(Image& image);

 private:
  // Loads that share a JITDylib.
  struct Group {
    llvm::orc::JITDylib* dylib;
    uint64_t loads;
  };
  llvm::orc::JITDylib& JoinGroup();
  void LeaveGroup(const llvm::orc::JITDylib& dylib);

  const bool is_inspected_;
  std::shared_ptr<llvm::orc::SymbolStringPool> names_;  // of loads
  LoadMemory memory_;
  llvm::orc::ExecutionSession session_;
  Mutex groups_mutex_;
  std::vector<Group> groups_;
  std::atomic<uint64_t> loads_{0};
  std::atomic<uint64_t> live_loads_{0};
  std::atomic<uint64_t> most_live_loads_{0};  // since the heap was last trimmed
  std::atomic<uint64_t> removed_loads_{0};    // since the last sweep of names_
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_LINKER_H_
