// SPDX-License-Identifier: Apache-2.0
//
// UnwindTable: a table of frames, known to the process's unwinder for as long as this lives.
//
// The unwinder reads every registered table whenever anything in the process throws, and trusts
// what it finds: whoever registers one has checked it.
#ifndef OBJECT_LOADER_OS_UNWINDER_H_
#define OBJECT_LOADER_OS_UNWINDER_H_

#include <cstdint>
#include <utility>

namespace object_loader {

struct AddressRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool empty() const { return begin == end; }
};

class UnwindTable {
 public:
  UnwindTable() = default;
  // Registers the .eh_frame at this address, which ends with four zero bytes.
  explicit UnwindTable(uint64_t table);
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

#endif  // OBJECT_LOADER_OS_UNWINDER_H_
