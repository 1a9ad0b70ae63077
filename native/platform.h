// SPDX-License-Identifier: Apache-2.0
//
// Platform: the ORC stack of one session, and what it takes from the operating system.
//
// The stack is an ExecutionSession with an ObjectLinkingLayer over the session's MemoryPool: no
// LLJIT, no code generator, no ORC runtime. One load is one materialization: its graph defines a
// single symbol, the load's name, so ORC tracks the load's memory and nothing else. (Handing ORC
// every symbol costs most of a load, and in LLVM 22 grows faster than their number:
// llvm/llvm-project#179611.)
//
// Concurrency: every method may be called from any thread. Links run on the thread that asks.
// This is the only file that knows operating systems and LLVM versions apart.
#ifndef OBJECT_LOADER_PLATFORM_H_
#define OBJECT_LOADER_PLATFORM_H_

#include <llvm/ExecutionEngine/Orc/Core.h>
#include <llvm/ExecutionEngine/Orc/ObjectLinkingLayer.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "link_graph.h"
#include "memory.h"
#include "unwind.h"

namespace object_loader {

// Where the loader found symbols in the process, with the libraries they came from kept loaded, as
// the dynamic linker keeps the dependencies of a library.
class ProcessSymbols {
 public:
  ProcessSymbols();
  ~ProcessSymbols();
  ProcessSymbols(const ProcessSymbols&) = delete;
  ProcessSymbols& operator=(const ProcessSymbols&) = delete;

  // The address of `name`, or null. The global scope is searched first, then the libraries that
  // every TVM-FFI library depends on (libtvm_ffi, libstdc++, libm, libgcc_s, libc), which a
  // dlopened one would find even where they were loaded RTLD_LOCAL.
  llvm::orc::ExecutorAddr Find(const llvm::orc::SymbolStringPtr& name);

 private:
  void Pin(void* address);

  std::mutex mutex_;
  llvm::DenseMap<llvm::orc::SymbolStringPtr, llvm::orc::ExecutorAddr> found_;
  llvm::DenseMap<void*, void*> pinned_;  // base address of a library -> its handle, or null
  void* tvm_ffi_ = nullptr;
};

// A load in memory: linked, protected, not yet initialized.
struct Image {
  using Initializer = void (*)(int, char**, char**);
  using Finalizer = void (*)();

  llvm::orc::ResourceTrackerSP tracker;          // removing it gives the memory back
  std::vector<llvm::orc::ExecutorAddr> defined;  // in the order of the definitions given to Link
  std::vector<Initializer> initializers;         // in the order in which they run
  std::vector<Finalizer> finalizers;             // before __cxa_finalize, in this order
  std::vector<Finalizer> late_finalizers;        // those with a priority: after it
  void* dso_handle = nullptr;                    // null where nothing refers to it
  AddressRange eh_frame;                         // empty where there is none
  AddressRange code;
  UnwindTable unwind_table;

  void RunInitializers() const;
  // Runs finalizers, destructors and atexit handlers, as dlclose does.
  void RunFinalizers() const;
};

class Platform {
 public:
  Platform();
  ~Platform();

  std::shared_ptr<llvm::orc::SymbolStringPool> names() { return names_; }
  ProcessSymbols& process_symbols() { return process_symbols_; }
  MemoryPool& memory() { return memory_; }

  llvm::orc::JITDylib& CreateJITDylib(const std::string& name);
  void RemoveJITDylib(llvm::orc::JITDylib& dylib);

  // Links the graph, all of whose references are bound, into `dylib`. Throws LinkError,
  // ObjectFormatError and OutOfMemoryError; nothing is left behind then.
  Image Link(llvm::orc::JITDylib& dylib, LoadGraph& load,
             const std::vector<Definition>& definitions);
  // Forgets the image's unwind tables and gives its memory back.
  void Unlink(Image& image);

 private:
  std::shared_ptr<llvm::orc::SymbolStringPool> names_;
  ProcessSymbols process_symbols_;
  MemoryPool memory_;
  llvm::orc::ExecutionSession session_;
  llvm::orc::ObjectLinkingLayer layer_;
  std::atomic<uint64_t> loads_{0};
  std::atomic<uint64_t> live_dylibs_{0};
  std::atomic<uint64_t> removed_dylibs_{0};  // since the last sweep of names_
};

// The object of functions that a static linker would add (native/support.c), and their names.
llvm::StringRef SupportObject();
bool IsSupportSymbol(llvm::StringRef name);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PLATFORM_H_
