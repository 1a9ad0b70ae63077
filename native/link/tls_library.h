// SPDX-License-Identifier: Apache-2.0
//
// TlsLibrary: the thread-local variables of one load, known to the dynamic linker as those of a
// shared library are.
//
// The dynamic linker gives each thread its copy of the variables, when the thread first uses one,
// and frees it when the thread ends or the module is closed. It does so for libraries that it has
// opened; so a minimal one is made in memory, with nothing in it but the initial values, and
// opened. Where the variables are is told through the same relocations that a library would have.
//
// Lifetime: the library is closed when the last owner goes. Concurrency: immutable once open.
// Formats: gABI, and "ELF Handling For Thread-Local Storage".
#ifndef OBJECT_LOADER_LINK_TLS_LIBRARY_H_
#define OBJECT_LOADER_LINK_TLS_LIBRARY_H_

#include <llvm/ADT/ArrayRef.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "os/dynamic_library.h"

namespace object_loader {

class TlsLibrary;

// A thread-local variable.
struct TlsVariable {
  std::shared_ptr<const TlsLibrary> module;  // null: of the library that is being opened
  std::string symbol;   // not empty: one that the dynamic linker finds in the process by this name
  uint64_t offset = 0;  // in the module's variables, or from the symbol
  std::string library;  // the path of a loaded library that has the symbol, beside the process
  bool may_be_null = false;  // where the dynamic linker does not find it
};

class TlsLibrary {
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

  // Throws LinkError with the dynamic linker's reason, and OutOfMemoryError.
  static std::shared_ptr<const TlsLibrary> Open(const Variables& variables,
                                                llvm::ArrayRef<Query> queries);
  ~TlsLibrary();
  TlsLibrary(const TlsLibrary&) = delete;
  TlsLibrary& operator=(const TlsLibrary&) = delete;

  // In the order of the queries.
  const std::vector<Answer>& answers() const { return answers_; }

  const std::string& name() const { return name_; }
  // The address of the calling thread's variable.
  void* Address(uint64_t offset) const;

 private:
  TlsLibrary() = default;

  DynamicLibrary library_;
  size_t id_ = 0;     // the dynamic linker's
  std::string name_;  // of the library, and of a symbol at the start of its variables
  std::vector<Answer> answers_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_TLS_LIBRARY_H_
