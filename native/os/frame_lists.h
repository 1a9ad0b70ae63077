// SPDX-License-Identifier: Apache-2.0
//
// FrameLists: sorted lists of frames, where the unwinder of GCC before version 13 looks for them.
//
// What that unwinder knows of is a list of objects; each has, once it was used, a pointer to a
// sorted vector of its frames. Here there is one object for each stretch of code, of some hundred
// kilobytes, and its vector is changed, or exchanged, when loads come and go. So the object stays,
// which matters: the unwinder reads it after it has left its lock, while the frame that it found in
// it is on some thread's stack. (To register the tables of a stretch anew, as one array, would be
// within its interface, but the object of before could never be freed.)
//
// How an object and a vector lie in memory (libgcc's unwind-dw2-fde.h, the same from GCC 3 to 12)
// is no part of that interface. It is tried out with the first object; where it is otherwise, Add
// says so.
//
// Concurrency: every method may be called from any thread, while others throw. The unwinder reads a
// vector and its frames by way of the pointer and the count that it has read before, which are
// stored with release: the order follows from the addresses, on every processor. What it reads
// otherwise is changed before it last took its lock.
#ifndef OBJECT_LOADER_OS_FRAME_LISTS_H_
#define OBJECT_LOADER_OS_FRAME_LISTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/fork_lock.h"
#include "os/unwinder.h"

namespace object_loader {

class FrameLists {
 public:
  // Never destroyed: frames may outlive everything else.
  static FrameLists& OfProcess();

  // False where this unwinder is not the expected one. From `area` on up to the frames' code there
  // is no code but loaded one. Throws std::bad_alloc.
  bool Add(std::vector<Frame> frames, uint64_t area);
  // Those with records in the table; `code` holds all code that they are of.
  void Remove(AddressRange table, AddressRange code, uint64_t area);
  // What is kept for this area, of which all frames have been removed, goes: somebody else's code
  // may come there. Until then it stays, since registering anew has the unwinder look through the
  // tables of everybody.
  void Forget(AddressRange area);

 private:
  class List;
  static uint64_t StretchOf(uint64_t address, uint64_t area);

  Mutex mutex_;
  enum { kUnknown, kExpected, kOther } unwinder_ = kUnknown;
  std::map<uint64_t, std::unique_ptr<List>> lists_;  // by where their stretch begins
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_FRAME_LISTS_H_
