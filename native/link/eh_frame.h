// SPDX-License-Identifier: Apache-2.0
//
// .eh_frame on its way through a link: taken apart into its records, so that those of functions
// that are not loaded stay out, and put together in the form that unwinders read: record after
// record, without gaps and end marks, up to four zero bytes.
//
// Format: Linux Standard Base, "Exception Frames"; DWARF pointer encodings.
#ifndef OBJECT_LOADER_LINK_EH_FRAME_H_
#define OBJECT_LOADER_LINK_EH_FRAME_H_

#include <llvm/ADT/ArrayRef.h>
#include <llvm/ADT/StringRef.h>

#include <cstdint>
#include <string>
#include <vector>

#include "object/elf_view.h"
#include "os/unwinder.h"

namespace object_loader {

// One section .eh_frame of an object.
class EHFrame {
 public:
  static constexpr uint32_t kNone = ~0U;

  struct Record {
    uint32_t offset;       // in the section
    uint32_t size;         // bytes, with the length before it
    uint32_t relocations;  // the first of those that lie in it
    uint32_t relocations_end;
    uint32_t common;  // the number of the record with the common information; kNone: it is one
    bool is_live = false;
    uint64_t place = 0;  // where it goes, when that is decided
  };

  // Throws ObjectFormatError.
  EHFrame(const ElfView& object, size_t object_index, size_t section);
  EHFrame(EHFrame&&) = default;
  EHFrame(const EHFrame&) = delete;
  EHFrame& operator=(const EHFrame&) = delete;

  size_t object() const { return object_; }
  size_t section() const { return section_; }
  llvm::StringRef content() const { return content_; }
  // By their offsets.
  std::vector<Record>& records() { return records_; }
  const std::vector<Record>& records() const { return records_; }
  llvm::ArrayRef<Elf::Rela> RelocationsOf(const Record& record) const {
    return relocations_.slice(record.relocations, record.relocations_end - record.relocations);
  }
  // The relocation that says which function a frame is of, or null.
  const Elf::Rela* FunctionOf(const Record& record) const;

  // Whether it is a frame of a function that a linker has dropped (ld -r), which is left at 0.
  bool IsOfDropped(const Record& record) const;

  // Copies a record, which lies at `place` of the new table; that of its common information is
  // known.
  void Copy(const Record& record, char* to) const;

 private:
  void SortRelocations();

  size_t object_;
  size_t section_;
  llvm::StringRef content_;
  llvm::ArrayRef<Elf::Rela> relocations_;
  std::vector<Elf::Rela> sorted_;  // where the file has them in another order
  std::vector<Record> records_;
};

// Reads a finished table, which ends with its end mark: the unwinder reads it whenever anything in
// the process throws, and trusts it. Every record must be well-formed, and describe `code`. Throws
// ObjectFormatError, whose message does not name the object.
std::vector<Frame> FramesOf(AddressRange table, AddressRange code);

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_EH_FRAME_H_
