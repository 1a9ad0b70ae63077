// SPDX-License-Identifier: Apache-2.0
//
// The calls that this thread is in, as the process's unwinder sees them.
//
// Concurrency: every function may be called from any thread. The dynamic linker is asked only for
// what it tells without the lock that it holds while the constructors of a library run.
#ifndef OBJECT_LOADER_OS_CALL_STACK_H_
#define OBJECT_LOADER_OS_CALL_STACK_H_

#include <llvm/ADT/STLFunctionalExtras.h>

#include <cstdint>
#include <string>

#include "os/thread_exit.h"

namespace object_loader {

struct CallFrame {
  uint64_t address;   // of the call, or of what was interrupted; within its instruction
  uint64_t function;  // where the code begins that the unwinder has one entry for
  CodeOwner* owner;   // null where it is not loaded code
};

// Calls `visit` with each frame, the innermost first, until it returns false.
void VisitCallStack(llvm::function_ref<bool(const CallFrame&)> visit);

// What a library of the process calls the function that begins there; empty where it has no name
// that others may use. Throws std::bad_alloc.
std::string NameOfLibraryFunction(uint64_t address);

// What dladdr tells of an address in a library of the process.
struct LibraryAddress {
  const char* path;
  void* base;
  const char* symbol;
  void* symbol_address;
};
// As dladdr: 0 where nothing is known.
int FindLibraryAddress(const void* address, LibraryAddress* result);
// The line of backtrace_symbols. Throws std::bad_alloc.
std::string DescribeLibraryAddress(const void* address);
void WriteLine(int file, std::string line);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_CALL_STACK_H_
