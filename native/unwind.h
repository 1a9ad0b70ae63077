// SPDX-License-Identifier: Apache-2.0
//
// UnwindTable: the .eh_frame of a load, known to the process's unwinder for as long as this lives.
//
// The unwinder reads every registered table whenever anything in the process throws, and trusts
// what it finds. So a table is registered only when each of its records is well-formed and
// describes code of the same load.
//
// Format: Linux Standard Base, "Exception Frames"; DWARF pointer encodings.
#ifndef OBJECT_LOADER_UNWIND_H_
#define OBJECT_LOADER_UNWIND_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace object_loader {

struct AddressRange {
  uint64_t begin = 0;
  uint64_t end = 0;
};

class UnwindTable {
 public:
  UnwindTable() = default;
  // Registers the table, which ends with four zero bytes. Throws ObjectFormatError; its message
  // does not name the object.
  UnwindTable(AddressRange table, AddressRange code);
  ~UnwindTable();
  UnwindTable(UnwindTable&& other) noexcept : begin_(std::exchange(other.begin_, nullptr)) {}
  UnwindTable& operator=(UnwindTable&& other) noexcept {
    std::swap(begin_, other.begin_);
    return *this;
  }

 private:
  void* begin_ = nullptr;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_UNWIND_H_
