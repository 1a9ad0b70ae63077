// SPDX-License-Identifier: Apache-2.0
//
// TlsModule: the thread-local variables of one load.
//
// Mostly they are the loader's own (ThreadStorage), and what code passes to `__tls_get_addr` leads
// there. But code that takes a variable for one at a fixed distance from the thread pointer
// (initial exec), or asks by a descriptor, has to find it where the dynamic linker puts those of
// shared libraries. It does so for libraries that it has opened; so a minimal one is made in
// memory, with nothing in it but the initial values, and opened. Where the variables are is told
// through the same relocations that a library would have; those of libraries are found so, too.
//
// Lifetime: the variables go when the last owner does. Concurrency: immutable once open, but that
// the first code that asks so has variables of the loader's become the dynamic linker's.
// Formats: gABI, and "ELF Handling For Thread-Local Storage".
#ifndef OBJECT_LOADER_LINK_TLS_MODULE_H_
#define OBJECT_LOADER_LINK_TLS_MODULE_H_

#include <llvm/ADT/ArrayRef.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "os/dynamic_library.h"
#include "os/thread_storage.h"

namespace object_loader {

class TlsModule;

// A thread-local variable.
struct TlsVariable {
  std::shared_ptr<const TlsModule> module;  // null: of the one that is being opened
  std::string symbol;   // not empty: one that the dynamic linker finds in the process by this name
  std::string version;  // of the symbol, of which the library may have several
  uint64_t offset = 0;  // in the module's variables, or from the symbol
  std::string library;  // the path of a loaded library that has the symbol, beside the process
  bool may_be_null = false;  // where the dynamic linker does not find it
};

class TlsModule {
 public:
  // The initial values; the variables after them, up to `size` bytes, start as zeros.
  struct Variables {
    std::vector<char> values;
    uint64_t size = 0;
    uint64_t alignment = 1;
  };

  // What code wants to know of a variable.
  struct Query {
    enum Kind {
      kModuleAndOffset,  // the argument of __tls_get_addr
      kModule,           // the same, with offset 0
      kThreadOffset,     // the distance from the thread pointer, the same in every thread
      kDescriptor,       // a TLS descriptor: a function, and its argument
    };
    Kind kind;
    TlsVariable variable;
  };
  using Answer = std::array<uint64_t, 2>;

  // What the dynamic linker has opened: its number of it, and its answers.
  struct Library {
    DynamicLibrary library;
    uint64_t number = 0;
    std::vector<Answer> answers;
  };

  // Throws LinkError with the dynamic linker's reason, OutOfMemoryError and std::bad_alloc.
  static std::shared_ptr<const TlsModule> Open(Variables variables, llvm::ArrayRef<Query> queries);
  ~TlsModule();
  TlsModule(const TlsModule&) = delete;
  TlsModule& operator=(const TlsModule&) = delete;

  // In the order of the queries.
  const std::vector<Answer>& answers() const { return answers_; }

  // Of the library, and of a symbol at the start of its variables.
  const std::string& name() const { return name_; }
  // The address of the calling thread's variable.
  void* Address(uint64_t offset) const;

 private:
  TlsModule() = default;
  // From now on the dynamic linker has the variables. Throws LinkError where threads have used them
  // already.
  void BecomeLibrary() const;

  std::string name_;
  std::vector<Answer> answers_;
  std::unique_ptr<ThreadStorage> storage_;
  Library asking_;  // where others' variables are asked for
  mutable Mutex mutex_;
  mutable Library library_;  // with the variables
};

// What loaded code has to call as `__tls_get_addr`. Its argument may be of a TlsModule; or of a
// weak variable that is not there: null, then.
void* TlsGetAddr(uint64_t* module_and_offset);

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_TLS_MODULE_H_
