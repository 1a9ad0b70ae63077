// SPDX-License-Identifier: Apache-2.0
//
// What perf is told of code that no file holds: a map of names, /tmp/perf-PID.map, which perf
// report reads by itself, and a dump of the code and its lines, jit-PID.dump, which perf inject
// makes files of that perf annotate can read.
//
// Both only grow, and stay when the process ends: perf reads them afterwards. A process that has
// forked writes files of its own.
//
// Concurrency: every function may be called from any thread.
// Formats: tools/perf/Documentation/jit-interface.txt and jitdump-specification.txt in Linux.
#ifndef OBJECT_LOADER_OS_PROFILER_H_
#define OBJECT_LOADER_OS_PROFILER_H_

#include <llvm/ADT/ArrayRef.h>

#include <cstdint>
#include <string>
#include <vector>

namespace object_loader {

// The line of a source that the code from the address on was made from.
struct ProfiledLine {
  uint64_t address;
  uint32_t line;
  std::string file;
};

struct ProfiledFunction {
  uint64_t address;
  uint64_t size;
  std::string name;
  std::vector<ProfiledLine> lines = {};  // by address; empty where they are not known
};

// Opens the files of this process; the dump in the folder that the environment variable JITDUMPDIR
// names, or in the current one. Throws FileError.
// `machine`: the processor, by ELF's number.
void OpenProfile(uint32_t machine);
// Writes down functions that are in memory. Throws FileError.
void AddToProfile(uint32_t machine, llvm::ArrayRef<ProfiledFunction> functions);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_PROFILER_H_
