// SPDX-License-Identifier: Apache-2.0
//
// ProcessSymbols: what the process itself defines, with the libraries that symbols came from kept
// loaded, as the dynamic linker keeps the dependencies of a library.
//
// Concurrency: every method may be called from any thread. No lock is held while the dynamic linker
// is asked: its own may be held for as long as the constructors of a library take.
#ifndef OBJECT_LOADER_OS_PROCESS_SYMBOLS_H_
#define OBJECT_LOADER_OS_PROCESS_SYMBOLS_H_

#include <llvm/ADT/ArrayRef.h>
#include <llvm/ADT/DenseMap.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "base/name.h"
#include "os/dynamic_library.h"

namespace object_loader {

class ProcessSymbols {
 public:
  // `first_versions`: those of symbols that a reference without a version is also bound to, though
  // nothing new is to be linked with them.
  explicit ProcessSymbols(llvm::ArrayRef<const char*> first_versions);
  ~ProcessSymbols();
  ProcessSymbols(const ProcessSymbols&) = delete;
  ProcessSymbols& operator=(const ProcessSymbols&) = delete;

  // The address of each name, or null. The global scope is searched first, then the libraries that
  // every TVM-FFI library depends on (libtvm_ffi, libstdc++, libm, libgcc_s, libc), which a
  // dlopened one would find even where they were loaded RTLD_LOCAL.
  std::vector<void*> Find(llvm::ArrayRef<NameRef> names);
  // In the global scope alone, which comes before a library's own symbols where these may be
  // replaced. A library that was open before it came into that scope may be overlooked.
  std::vector<void*> FindGlobal(llvm::ArrayRef<NameRef> names);

 private:
  void* FindNew(NameRef name);
  void Pin(void* address);
  const DynamicLibrary* VectorMath();

  const std::vector<const char*> first_versions_;
  Mutex mutex_;
  llvm::DenseMap<Name, void*> found_;
  // What the global scope has, or has not, as of so many libraries ever opened.
  struct Global {
    void* address;
    uint64_t as_of;
  };
  llvm::DenseMap<Name, Global> global_;
  llvm::DenseMap<void*, DynamicLibrary> pinned_;  // by base address
  DynamicLibrary tvm_ffi_;
  DynamicLibrary vector_math_;  // where it was needed; never closed before the end
};

// Loaded code gets `address` in the place of what the process defines as `symbol`. For use before
// anything is loaded.
void ReplaceProcessSymbol(const std::string& symbol, void* address);

// The library of the process that has such a thread-local variable; see DynamicLibrary.
struct ThreadLocalOwner {
  std::string path;  // empty: the program itself
  std::string version;
};
std::optional<ThreadLocalOwner> FindThreadLocal(const std::string& symbol);

// What a library of the process says of the symbol that begins at this address.
struct SymbolInfo {
  bool is_function;
  uint64_t size;      // bytes
  bool is_read_only;  // from the time when the library has been opened on
};
std::optional<SymbolInfo> Describe(const void* address);

// The path of the library of the process, or of the program, that the address lies in; empty where
// it lies in none.
std::string LibraryAt(const void* address);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_PROCESS_SYMBOLS_H_
