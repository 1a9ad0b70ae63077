// SPDX-License-Identifier: Apache-2.0
//
// What debuggers are told of code that no file holds: GDB's interface for JIT compilers, which LLDB
// knows as well. A debugger stops in a function of ours, and reads the list that we keep; one that
// attaches later reads the list then.
//
// Every registration has GDB look through all others, so there is one for each load.
//
// Concurrency: every method may be called from any thread. Other JIT compilers of the process have
// a list and a function of their own, which debuggers find as well.
// Format: GDB's manual, "JIT Compilation Interface".
#ifndef OBJECT_LOADER_OS_DEBUGGER_H_
#define OBJECT_LOADER_OS_DEBUGGER_H_

#include <llvm/ADT/StringRef.h>

#include <memory>

namespace object_loader {

// An object file that debuggers know for as long as this lives.
class DebuggedFile {
 public:
  // Refers to the bytes. Throws std::bad_alloc.
  explicit DebuggedFile(llvm::StringRef bytes);
  ~DebuggedFile();
  DebuggedFile(const DebuggedFile&) = delete;
  DebuggedFile& operator=(const DebuggedFile&) = delete;

  struct Entry;

 private:
  const std::unique_ptr<Entry> entry_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_DEBUGGER_H_
