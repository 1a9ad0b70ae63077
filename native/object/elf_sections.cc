// SPDX-License-Identifier: Apache-2.0
#include "object/elf_sections.h"

#include <llvm/ADT/StringExtras.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <utility>

#include "object/elf_tables.h"

namespace object_loader {

namespace {

using llvm::StringRef;
namespace ELF = llvm::ELF;

// Sections up to so many bytes are read together with the tables.
constexpr uint64_t kSmallSection = 64 << 10;

// Types of sections that LLVM, or some version of it, has no name for.
constexpr uint32_t kSFrame = 0x6ffffff4;
constexpr uint32_t kObjectOnly = 0x6ffffff8;
// AArch64's own: build attributes, which say what a linker checks, and a flag of code that is never
// read (clang's -mexecute-only).
constexpr uint32_t kAArch64Attributes = 0x70000003;
constexpr uint64_t kAArch64PureCode = 0x20000000;
// LLVM's own types: all that begin so.
constexpr uint32_t kLLVMTypes = 0x6fff4c00;
constexpr uint32_t kLLVMMask = 0xffffff00;

enum class Use {
  kIgnored,  // means nothing to running code, or only to a linker that writes files
  kTable,    // is read to understand the object, and not loaded
  kContent,  // may be loaded
  kUnknown,
};

Use UseOf(uint32_t type) {
  switch (type) {
    case ELF::SHT_SYMTAB:
    case ELF::SHT_STRTAB:
    case ELF::SHT_SYMTAB_SHNDX:
    case ELF::SHT_RELA:
    case ELF::SHT_REL:
    case ELF::SHT_CREL:
    case ELF::SHT_RELR:
    case ELF::SHT_GROUP:
      return Use::kTable;
    case ELF::SHT_PROGBITS:
    case ELF::SHT_NOBITS:
    case ELF::SHT_NOTE:
    case ELF::SHT_INIT_ARRAY:
    case ELF::SHT_FINI_ARRAY:
    case ELF::SHT_PREINIT_ARRAY:
      return Use::kContent;
    case ELF::SHT_NULL:
    case ELF::SHT_GNU_ATTRIBUTES:
    case kSFrame:
    case kObjectOnly:
      return Use::kIgnored;
    default:
      return Use::kUnknown;
  }
}

// Flags of loaded sections that are understood, or that change nothing here.
constexpr uint64_t kKnownFlags = ELF::SHF_WRITE | ELF::SHF_ALLOC | ELF::SHF_EXECINSTR |
                                 ELF::SHF_MERGE | ELF::SHF_STRINGS | ELF::SHF_INFO_LINK |
                                 ELF::SHF_LINK_ORDER | ELF::SHF_GROUP | ELF::SHF_TLS |
                                 ELF::SHF_GNU_RETAIN | ELF::SHF_X86_64_LARGE;

}  // namespace

// Fills in the sections.
class ElfSections::Reader {
 public:
  Reader(ElfSections& sections, ElfTables& tables)
      : sections_(sections),
        tables_(tables),
        content_(tables.content()),
        header_(tables.file().getHeader()),
        is_aarch64_(
            ELF::convertEMachineToArchName(header_.e_machine).equals_insensitive("aarch64")) {}

  void Run() {
    sections_.headers_ = tables_.headers();
    ReadNames();
    sections_.loaded_.resize(sections_.size());
    for (size_t i = 1; i < sections_.size(); ++i) ReadSection(i);
    CheckOverlaps();
    ReadContent();
  }

 private:
  void ReadNames() {
    uint32_t names = header_.e_shstrndx == ELF::SHN_XINDEX ? uint32_t{sections_[0].sh_link}
                                                           : uint32_t{header_.e_shstrndx};
    if (names == 0 || names >= sections_.size()) tables_.Malformed("table of section names");
    tables_.Fetch(names);
    sections_.names_ = tables_.Check(tables_.file().getSectionStringTable(sections_.headers_));
    // The first one is no section, but has a name like all others.
    if (sections_[0].sh_name >= sections_.names_.size()) tables_.Malformed("name of a section");
  }

  void ReadSection(size_t i) {
    const Elf::Shdr& section = sections_[i];
    if (section.sh_name >= sections_.names_.size()) tables_.Malformed("name of a section");
    StringRef name = sections_.Name(i);
    uint32_t type = section.sh_type;
    bool allocated = (section.sh_flags & ELF::SHF_ALLOC) != 0;
    bool excluded = (section.sh_flags & ELF::SHF_EXCLUDE) != 0;
    if (name.starts_with(".gnu.lto_")) sections_.has_lto_ = true;
    if (name == ".note.GNU-stack" && (section.sh_flags & ELF::SHF_EXECINSTR)) FailForStack();
    Use use = UseOf(type);
    if (is_aarch64_ && type == kAArch64Attributes) use = Use::kIgnored;
    if (type == ELF::SHT_X86_64_UNWIND && name == ".eh_frame") use = Use::kContent;
    // What compilers tell LLVM's tools, and what applications keep in files for themselves.
    bool is_for_others = (type & kLLVMMask) == kLLVMTypes || type >= ELF::SHT_LOUSER;
    if (use == Use::kUnknown && ((is_for_others && !allocated) || excluded)) use = Use::kIgnored;
    switch (use) {
      case Use::kIgnored:
        return;
      case Use::kUnknown:
        tables_.Fail(
            sections_.Label(i) + " has type 0x" + llvm::utohexstr(type, /*LowerCase=*/true) +
            ", which is not known here: what it means would be lost. Compile without the option "
            "that makes it, or remove it (objcopy --remove-section)");
      case Use::kTable:
        if (allocated) {
          tables_.Malformed(sections_.Label(i) + ", a table for the linker, is to be loaded");
        }
        return;
      case Use::kContent:
        if (allocated && !excluded) ReadLoadedSection(i);
    }
  }

  void ReadLoadedSection(size_t i) {
    const Elf::Shdr& section = sections_[i];
    uint64_t unknown = section.sh_flags & ~(kKnownFlags | (is_aarch64_ ? kAArch64PureCode : 0));
    if (section.sh_flags & ELF::SHF_COMPRESSED) {
      tables_.Fail(sections_.Label(i) +
                   " is compressed (SHF_COMPRESSED) and to be loaded, which the format rules out");
    }
    if (unknown) {
      tables_.Fail(sections_.Label(i) + " has flags 0x" +
                   llvm::utohexstr(unknown, /*LowerCase=*/true) +
                   " that are not known here: what they mean would be lost");
    }
    uint64_t alignment = section.sh_addralign;
    if (alignment != 0 && !llvm::isPowerOf2_64(alignment)) {
      tables_.Malformed(sections_.Label(i) + " has alignment " + std::to_string(alignment));
    }
    if (alignment > kMaxAlignment) {
      tables_.Fail(sections_.Label(i) + " is aligned to " + std::to_string(alignment) +
                   " bytes; at most " + std::to_string(kMaxAlignment) +
                   " are possible, since a load lies within 2 GiB");
    }
    if (section.sh_size > kMaxSize) {
      if (section.sh_type != ELF::SHT_NOBITS && section.sh_size > content_.size()) {
        tables_.Malformed(sections_.Label(i) + " reaches past the end of the file");
      }
      tables_.Fail(
          sections_.Label(i) + " has " + std::to_string(section.sh_size) +
          " bytes; a load has less than 2 GiB (2147483648 bytes), which 32-bit relocations reach: "
          "allocate such memory when the code runs");
    }
    bool is_thread_local = (section.sh_flags & ELF::SHF_TLS) != 0;
    if (is_thread_local && section.sh_type != ELF::SHT_PROGBITS &&
        section.sh_type != ELF::SHT_NOBITS) {
      tables_.Malformed(sections_.Label(i) +
                        " holds thread-local variables, but is of another type");
    }
    if ((section.sh_flags & ELF::SHF_LINK_ORDER) && section.sh_link >= sections_.size()) {
      tables_.Malformed(sections_.Label(i) + " belongs to a section that is missing");
    }
    sections_.loaded_[i] = true;
  }

  [[noreturn]] void FailForStack() const {
    tables_.Fail(
        "asks for an executable stack (its .note.GNU-stack is executable), which would make the "
        "stacks of all threads of the process executable. GCC asks for it where the address of a "
        "nested function is taken: make it an ordinary function, or compile with "
        "-ftrampoline-impl=heap (GCC 14). Where the mark comes from an assembler source that does "
        "without, assemble with -Wa,--noexecstack");
  }

  // Each byte of what is loaded, and of what is read as a table, has one meaning. What is read and
  // what is checked could otherwise change each other.
  void CheckOverlaps() {
    std::vector<std::pair<uint64_t, uint64_t>> used;  // offset, size
    used.reserve(sections_.size() + 2);
    used.push_back({0, sizeof(Elf::Ehdr)});
    for (size_t i = 1; i < sections_.size(); ++i) {
      const Elf::Shdr& section = sections_[i];
      bool is_table = sections_.IsTable(i);
      if ((!is_table && !sections_.loaded_[i]) || section.sh_type == ELF::SHT_NOBITS) continue;
      if (section.sh_offset > content_.size() ||
          section.sh_size > content_.size() - section.sh_offset) {
        tables_.Malformed(sections_.Label(i) + " reaches past the end of the file");
      }
      if (section.sh_size != 0) used.push_back({section.sh_offset, section.sh_size});
    }
    used.push_back({header_.e_shoff, sections_.size() * sizeof(Elf::Shdr)});
    if (!std::is_sorted(used.begin(), used.end())) std::sort(used.begin(), used.end());
    for (size_t i = 1; i < used.size(); ++i) {
      if (used[i].first < used[i - 1].first + used[i - 1].second) {
        tables_.Malformed("two of its sections or tables overlap");
      }
    }
  }

  void ReadContent() {
    if (content_.is_whole()) return;
    for (size_t i = 1; i < sections_.size(); ++i) {
      const Elf::Shdr& section = sections_[i];
      if (sections_.loaded_[i] && section.sh_type != ELF::SHT_NOBITS && sections_.IsReadAtOnce(i)) {
        content_.Fetch(section.sh_offset, section.sh_size);
      }
    }
  }

  ElfSections& sections_;
  ElfTables& tables_;
  FileContent& content_;
  const Elf::Ehdr& header_;
  const bool is_aarch64_;
};

ElfSections::ElfSections(ElfTables& tables) { Reader(*this, tables).Run(); }

bool ElfSections::IsTable(size_t section) const {
  return UseOf(headers_[section].sh_type) == Use::kTable;
}

bool ElfSections::IsReadAtOnce(size_t section) const {
  // Unwind tables are looked through, however large they are.
  return headers_[section].sh_size <= kSmallSection || Name(section) == ".eh_frame";
}

}  // namespace object_loader
