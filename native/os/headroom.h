// SPDX-License-Identifier: Apache-2.0
//
// Headroom: makes sure, before a link begins, that it will not run out of memory in the middle.
//
// LLVM is built without exceptions: where it can't get memory it ends the process, or an exception
// of the C++ library goes through its frames and leaves its locks taken. So a load asks the system
// beforehand whether the address space has room for all that linking it may allocate, and is
// refused where it has not. The room is given back at once, for malloc to take from.
//
// Concurrency: those of several threads are added up, so that they don't count on the same room.
#ifndef OBJECT_LOADER_OS_HEADROOM_H_
#define OBJECT_LOADER_OS_HEADROOM_H_

#include <cstdint>

namespace object_loader {

class Headroom {
 public:
  // For linking objects of `object_bytes` in all, `table_bytes` of which are symbols, relocations,
  // names and section headers. Throws OutOfMemoryError.
  Headroom(uint64_t object_bytes, uint64_t table_bytes);
  ~Headroom();
  Headroom(const Headroom&) = delete;
  Headroom& operator=(const Headroom&) = delete;

 private:
  const uint64_t bytes_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_HEADROOM_H_
