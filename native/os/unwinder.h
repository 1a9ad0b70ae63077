// SPDX-License-Identifier: Apache-2.0
//
// UnwindTable: a table of frames, known to the process's unwinder for as long as this lives.
//
// The unwinder reads what is registered whenever anything in the process throws, and trusts it:
// whoever registers a table has checked it. GCC's before version 13 goes through a list of what was
// registered, for each frame that it looks for and to take something out, and sorts what is new at
// the next throw. So there the tables of the code that lies near by are one entry of that list,
// with the frames sorted beforehand (frame_lists.h).
//
// Concurrency: tables may be made and destroyed by any thread, while others throw.
#ifndef OBJECT_LOADER_OS_UNWINDER_H_
#define OBJECT_LOADER_OS_UNWINDER_H_

#include <cstdint>
#include <memory>
#include <vector>

namespace object_loader {

struct AddressRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool empty() const { return begin == end; }
};

// One record of an .eh_frame: what code it is of, where it is, and how its pointers are written
// (DW_EH_PE_...).
struct Frame {
  AddressRange code;
  uint64_t record;
  uint8_t encoding;
};

class UnwindTable {
 public:
  UnwindTable() = default;
  // Registers the .eh_frame at `table`, which ends with four zero bytes, and has these frames. From
  // `area` on up to their code there is no code but loaded one. Throws std::bad_alloc.
  UnwindTable(AddressRange table, std::vector<Frame> frames, uint64_t area);
  // No loaded code is there any more.
  static void ForgetArea(AddressRange area);

 private:
  class Registered;
  class Alone;
  class InLists;
  std::shared_ptr<Registered> registered_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_UNWINDER_H_
