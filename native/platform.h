// SPDX-License-Identifier: Apache-2.0
//
// Platform: the ORC stack of one session, and what it takes from the operating system.
//
// The stack is an ExecutionSession and JITLink over the session's MemoryPool: no LLJIT, no code
// generator, no ORC runtime. One load is one materialization with a resource tracker of its own; it
// defines a single symbol, the load's name, in a JITDylib that many of them share. So ORC runs the
// link and owns its result, while symbols are looked up in the tables of dylib.cc. (Handing ORC
// every symbol costs most of a load, and in LLVM 22 grows faster than their number:
// llvm/llvm-project#179611. A JITDylib with symbols in it takes some 9 kB of tables; and its tables
// double when they are full, which with 50,000 loads in one took 5 ms at once.)
//
// Concurrency: every method may be called from any thread. Links run on a thread that asks for one.
// This is the only file that knows operating systems and LLVM versions apart.
#ifndef OBJECT_LOADER_PLATFORM_H_
#define OBJECT_LOADER_PLATFORM_H_

#include <llvm/ExecutionEngine/Orc/Core.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "archive.h"
#include "fork_lock.h"
#include "image.h"
#include "link_graph.h"
#include "memory.h"

namespace object_loader {

// Where the loader found symbols in the process, with the libraries they came from kept loaded, as
// the dynamic linker keeps the dependencies of a library.
class ProcessSymbols {
 public:
  ProcessSymbols();
  ~ProcessSymbols();
  ProcessSymbols(const ProcessSymbols&) = delete;
  ProcessSymbols& operator=(const ProcessSymbols&) = delete;

  // The address of each name, or null. The global scope is searched first, then the libraries that
  // every TVM-FFI library depends on (libtvm_ffi, libstdc++, libm, libgcc_s, libc), which a
  // dlopened one would find even where they were loaded RTLD_LOCAL.
  std::vector<llvm::orc::ExecutorAddr> Find(llvm::ArrayRef<llvm::orc::SymbolStringPtr> names);

 private:
  // Neither is called with the mutex locked: the dynamic linker's lock may be held for as long as
  // the constructors of a library take.
  llvm::orc::ExecutorAddr FindNew(const llvm::orc::SymbolStringPtr& name);
  void Pin(void* address);

  Mutex mutex_;
  llvm::DenseMap<llvm::orc::SymbolStringPtr, llvm::orc::ExecutorAddr> found_;
  llvm::DenseMap<void*, void*> pinned_;  // base address of a library -> its handle, or null
  void* tvm_ffi_ = nullptr;
  void* vector_math_ = nullptr;  // where it was needed
};

// Loaded code gets `address` in the place of what the process defines as `symbol`. For use before
// anything is loaded.
void ReplaceProcessSymbol(const std::string& symbol, void* address);

// Gives a load's memory back when ORC removes the load's tracker.
class LoadMemory : public llvm::orc::ResourceManager {
 public:
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

class Platform {
 public:
  Platform();
  ~Platform();

  std::shared_ptr<llvm::orc::SymbolStringPool> names() { return names_; }
  ProcessSymbols& process_symbols() { return process_symbols_; }
  MemoryPool& memory() { return memory_.pool(); }

  // Links the graph, all of whose references are bound. Throws LinkError, ObjectFormatError and
  // OutOfMemoryError; nothing is left behind then.
  Image Link(LoadGraph& load, const std::vector<Definition>& definitions);
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

  std::shared_ptr<llvm::orc::SymbolStringPool> names_;
  ProcessSymbols process_symbols_;
  LoadMemory memory_;
  llvm::orc::ExecutionSession session_;
  Mutex groups_mutex_;
  std::vector<Group> groups_;
  std::atomic<uint64_t> loads_{0};
  std::atomic<uint64_t> live_loads_{0};
  std::atomic<uint64_t> most_live_loads_{0};  // since the heap was last trimmed
  std::atomic<uint64_t> removed_loads_{0};    // since the last sweep of names_
};

// What a linker adds without being asked: libgcc, and the functions of native/support.c. Members
// are linked into loads that need what nobody else defines.
const Archive& SupportArchive();
// Whether each load has to have its own definition of the symbol, whatever the process defines:
// functions that must know which library calls them, data that is referred to as if it were near.
bool IsSupportSymbol(llvm::StringRef name);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PLATFORM_H_
