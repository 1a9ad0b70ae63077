// SPDX-License-Identifier: Apache-2.0
#include "link/eh_frame.h"

#include <llvm/BinaryFormat/Dwarf.h>
#include <llvm/Support/Endian.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "target/target.h"

namespace object_loader {

namespace {

namespace dwarf = llvm::dwarf;

[[noreturn]] void Fail(const char* what) {
  throw ObjectFormatError(std::string("malformed .eh_frame: ") + what);
}

// Reads from memory that ends at `end`.
class Reader {
 public:
  Reader(uint64_t position, uint64_t end) : position_(position), end_(end) {}

  uint64_t position() const { return position_; }
  bool at_end() const { return position_ == end_; }

  template <typename T>
  T Read() {
    if (end_ - position_ < sizeof(T)) Fail("a record is too short");
    T value;
    std::memcpy(&value, reinterpret_cast<const void*>(position_), sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  void SkipLEB128() {
    while (Read<uint8_t>() & 0x80) {
    }
  }

  // A pointer or, for `relative` false, a plain number in that format.
  uint64_t ReadEncoded(uint8_t encoding, bool relative) {
    uint64_t base = position_;
    uint64_t value;
    switch (encoding & 0x0f) {
      case dwarf::DW_EH_PE_absptr:
      case dwarf::DW_EH_PE_udata8:
      case dwarf::DW_EH_PE_sdata8:
        value = Read<uint64_t>();
        break;
      case dwarf::DW_EH_PE_udata4:
        value = Read<uint32_t>();
        break;
      case dwarf::DW_EH_PE_sdata4:
        value = static_cast<uint64_t>(int64_t{Read<int32_t>()});
        break;
      case dwarf::DW_EH_PE_udata2:
        value = Read<uint16_t>();
        break;
      case dwarf::DW_EH_PE_sdata2:
        value = static_cast<uint64_t>(int64_t{Read<int16_t>()});
        break;
      default:
        Fail("a pointer encoding that is not supported");
    }
    // Of a function that a linker has dropped (ld -r), nothing is left to be relative to.
    if (!relative || value == 0) return value;
    switch (encoding & 0x70) {
      case dwarf::DW_EH_PE_absptr:
        return value;
      case dwarf::DW_EH_PE_pcrel:
        return base + value;
      default:
        Fail("a pointer base that is not supported");
    }
  }

  Reader Part(uint64_t size) {
    if (end_ - position_ < size) Fail("a record reaches past the end");
    Reader part(position_, position_ + size);
    position_ += size;
    return part;
  }

 private:
  uint64_t position_;
  uint64_t end_;
};

// Reads what follows the identifier of a common information entry; returns how its frame
// descriptions encode pointers. As libgcc's get_cie_encoding reads it: what it takes for a table's
// encoding when it registers the table has to be what was checked.
uint8_t ReadPointerEncoding(Reader entry) {
  uint8_t version = entry.Read<uint8_t>();
  if (version != 1 && version != 3 && version != 4) Fail("a version that is not supported");
  std::string augmentation;
  while (char letter = entry.Read<char>()) augmentation += letter;
  if (version == 4 && (entry.Read<uint8_t>() != sizeof(void*) || entry.Read<uint8_t>() != 0)) {
    Fail("addresses of another size");
  }
  entry.SkipLEB128();  // code alignment factor
  entry.SkipLEB128();  // data alignment factor
  version == 1 ? static_cast<void>(entry.Read<uint8_t>()) : entry.SkipLEB128();  // return address
  if (augmentation.empty()) return dwarf::DW_EH_PE_absptr;
  if (augmentation[0] != 'z') Fail("an augmentation that is not supported");
  entry.SkipLEB128();  // length of what follows
  for (char letter : augmentation.substr(1)) {
    switch (letter) {
      case 'R': {
        uint8_t encoding = entry.Read<uint8_t>();
        if (encoding & dwarf::DW_EH_PE_indirect) Fail("an indirect pointer to code");
        return encoding;
      }
      case 'P': {
        uint8_t encoding = entry.Read<uint8_t>();
        if ((encoding & 0x70) == dwarf::DW_EH_PE_aligned) Fail("an aligned pointer");
        entry.ReadEncoded(encoding, false);
        break;
      }
      case 'L':
        entry.Read<uint8_t>();
        break;
      default:  // such as 'S', a signal handler's frame
        return dwarf::DW_EH_PE_absptr;
    }
  }
  return dwarf::DW_EH_PE_absptr;
}

uint32_t ReadWord(llvm::StringRef content, uint64_t offset) {
  return llvm::support::endian::read32le(content.data() + offset);
}

}  // namespace

EHFrame::EHFrame(const ElfView& object, size_t object_index, size_t section)
    : object_(object_index),
      section_(section),
      content_(object.Content(section)),
      relocations_(object.Relocations(section)) {
  auto malformed = [&](const char* what) {
    throw ObjectFormatError(object.name() + ": malformed .eh_frame: " + what);
  };
  SortRelocations();
  std::unordered_map<uint32_t, uint32_t> common;  // offset -> number
  uint32_t last_common = kNone;
  auto relocation = static_cast<uint32_t>(0);
  for (uint64_t offset = 0; offset < content_.size();) {
    if (content_.size() - offset < 4) malformed("a record is too short");
    uint64_t length = ReadWord(content_, offset);
    if (length == 0) {  // an end mark, which is the last one's only to be
      offset += 4;
      continue;
    }
    if (length > content_.size() - offset - 4) malformed("a record reaches past the end");
    if (length < 4) malformed("a record is too short");
    Record record;
    record.offset = static_cast<uint32_t>(offset);
    record.size = static_cast<uint32_t>(length + 4);
    uint64_t end = offset + record.size;
    while (relocation < relocations_.size() && relocations_[relocation].r_offset < offset) {
      ++relocation;
    }
    record.relocations = relocation;
    while (relocation < relocations_.size() && relocations_[relocation].r_offset < end) {
      ++relocation;
    }
    record.relocations_end = relocation;
    uint32_t identifier = ReadWord(content_, offset + 4);
    auto number = static_cast<uint32_t>(records_.size());
    if (identifier == 0) {
      record.common = kNone;
      common[record.offset] = last_common = number;
    } else {
      // Nearly always it is the one that came last.
      uint64_t wanted = offset + 4 - identifier;
      if (last_common != kNone && records_[last_common].offset == wanted) {
        record.common = last_common;
      } else {
        auto found = common.find(static_cast<uint32_t>(wanted));
        if (wanted > offset || found == common.end()) {
          malformed("a frame without its common information");
        }
        record.common = found->second;
      }
    }
    records_.push_back(record);
    offset = end;
  }
}

void EHFrame::SortRelocations() {
  auto by_offset = [](const Elf::Rela& a, const Elf::Rela& b) { return a.r_offset < b.r_offset; };
  if (std::is_sorted(relocations_.begin(), relocations_.end(), by_offset)) return;
  sorted_.assign(relocations_.begin(), relocations_.end());
  std::stable_sort(sorted_.begin(), sorted_.end(), by_offset);
  relocations_ = sorted_;
}

const Elf::Rela* EHFrame::FunctionOf(const Record& record) const {
  for (const Elf::Rela& relocation : RelocationsOf(record)) {
    bool does_something = KindOf(relocation.getType(false)).form != Form::kNothing;
    if (relocation.r_offset == record.offset + 8 && does_something) return &relocation;
  }
  return nullptr;
}

bool EHFrame::IsOfDropped(const Record& record) const {
  constexpr uint32_t kPointer = 8;  // where it begins
  return !FunctionOf(record) &&
         (record.size < kPointer + 4 || ReadWord(content_, record.offset + kPointer) == 0);
}

void EHFrame::Copy(const Record& record, char* to) const {
  std::memcpy(to, content_.data() + record.offset, record.size);
  if (record.common == kNone) return;
  uint64_t distance = record.place + 4 - records_[record.common].place;
  llvm::support::endian::write32le(to + 4, static_cast<uint32_t>(distance));
}

std::vector<Frame> FramesOf(AddressRange table, AddressRange code) {
  std::vector<Frame> frames;
  std::map<uint64_t, uint8_t> encodings;  // by the address of the common information entry
  Reader reader(table.begin, table.end);
  for (;;) {
    uint64_t start = reader.position();
    uint32_t length = reader.Read<uint32_t>();
    if (length == 0) break;  // the unwinder stops here, too
    Reader record = reader.Part(length);
    uint64_t identifier_at = record.position();
    uint32_t identifier = record.Read<uint32_t>();
    if (identifier == 0) {
      encodings[start] = ReadPointerEncoding(record);
      continue;
    }
    auto entry = encodings.find(identifier_at - identifier);
    if (entry == encodings.end()) Fail("a frame without its common information");
    uint64_t begin = record.ReadEncoded(entry->second, true);
    if (begin == 0) continue;  // passed over by the unwinder, too
    uint64_t size = record.ReadEncoded(entry->second, false);
    if (begin < code.begin || begin > code.end || size > code.end - begin) {
      Fail("a frame for code that is not the object's");
    }
    frames.push_back({{begin, begin + size}, start, entry->second});
  }
  if (!reader.at_end()) Fail("an end mark before the end");
  return frames;
}

}  // namespace object_loader
