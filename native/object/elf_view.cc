// SPDX-License-Identifier: Apache-2.0
#include "object/elf_view.h"

#include <llvm/ADT/StringExtras.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "object/crel.h"
#include "object/file_kind.h"

namespace object_loader {

namespace {

using llvm::ArrayRef;
using llvm::StringRef;
using ElfFile = llvm::object::ELFFile<Elf>;
namespace ELF = llvm::ELF;

// A load's memory is one reservation within reach of 32-bit relocations, so nothing in it can be
// larger, or aligned so strictly that it would take a large part of it.
constexpr uint64_t kMaxAlignment = uint64_t{1} << 29;
constexpr uint64_t kMaxSectionSize = (uint64_t{1} << 31) - 1;

// Sections up to so many bytes are read together with the tables.
constexpr uint64_t kSmallSection = 64 << 10;

// Types of sections that LLVM, or some version of it, has no name for.
constexpr uint32_t kSFrame = 0x6ffffff4;
constexpr uint32_t kObjectOnly = 0x6ffffff8;
// LLVM's own types: all that begin so.
constexpr uint32_t kLLVMTypes = 0x6fff4c00;
constexpr uint32_t kLLVMMask = 0xffffff00;

enum class Use {
  kIgnored,  // means nothing to running code, or only to a linker that writes files
  kTable,    // is read here
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

bool IsTableOfContent(uint32_t type) {
  return type == ELF::SHT_RELA || type == ELF::SHT_REL || type == ELF::SHT_CREL;
}

}  // namespace

// Fills in a view.
class ElfView::Reader {
 public:
  explicit Reader(ElfView& view)
      : view_(view),
        content_(*view.content_),
        file_(Check(ElfFile::create(content_.bytes()))),
        header_(file_.getHeader()) {}

  void Run() {
    ReadSections();
    CheckOverlaps();
    ReadSymbols();
    ReadGroups();
    view_.relocations_.resize(sections_.size());
    for (size_t i = 0; i < sections_.size(); ++i) ReadRelocations(i);
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw ObjectFormatError(view_.name() + ": " + what);
  }
  [[noreturn]] void Malformed(const std::string& what) const {
    Fail("is truncated or malformed: " + what);
  }
  template <typename T>
  T Check(llvm::Expected<T> value) const {
    if (!value) Malformed(Message(value.takeError()));
    return std::move(*value);
  }
  std::string Section(size_t i) const { return "section " + view_.SectionName(i).str(); }

  // Makes a table readable, once, and checks that it lies inside the file.
  void Fetch(size_t section) {
    if (fetched_[section]) return;
    fetched_[section] = true;
    Fetch(sections_[section].sh_offset, sections_[section].sh_size);
  }
  void Fetch(uint64_t offset, uint64_t size) {
    if (offset > content_.size() || size > content_.size() - offset) {
      Malformed("a table of " + std::to_string(size) + " bytes at offset " +
                std::to_string(offset) + " reaches past the end of the file");
    }
    content_.Fetch(offset, size);
    view_.table_bytes_ += size;
  }

  void ReadSections() {
    if (header_.e_shoff == 0) Malformed("no section table");
    if (header_.e_shentsize != sizeof(Elf::Shdr)) Malformed("entries of the section table");
    uint64_t count = header_.e_shnum;
    if (count == 0) {  // the first entry holds the number, for which the header has no room
      Fetch(header_.e_shoff, sizeof(Elf::Shdr));
      count =
          reinterpret_cast<const Elf::Shdr*>(content_.bytes().data() + header_.e_shoff)->sh_size;
    }
    if (count > content_.size() / sizeof(Elf::Shdr)) Malformed("number of sections");
    Fetch(header_.e_shoff, count * sizeof(Elf::Shdr));
    sections_ = view_.sections_ = Check(file_.sections());
    if (sections_.empty()) Malformed("no section table");
    uint32_t names = header_.e_shstrndx == ELF::SHN_XINDEX ? uint32_t{sections_[0].sh_link}
                                                           : uint32_t{header_.e_shstrndx};
    if (names == 0 || names >= sections_.size()) Malformed("table of section names");
    fetched_.resize(sections_.size());
    Fetch(names);
    view_.section_names_ = Check(file_.getSectionStringTable(sections_));
    view_.loaded_.resize(sections_.size());
    // The first one is no section, but has a name like all others.
    if (sections_[0].sh_name >= view_.section_names_.size()) Malformed("name of a section");
    for (size_t i = 1; i < sections_.size(); ++i) ReadSection(i);
  }

  void ReadSection(size_t i) {
    const Elf::Shdr& section = sections_[i];
    if (section.sh_name >= view_.section_names_.size()) Malformed("name of a section");
    StringRef name = view_.SectionName(i);
    uint32_t type = section.sh_type;
    bool allocated = (section.sh_flags & ELF::SHF_ALLOC) != 0;
    bool excluded = (section.sh_flags & ELF::SHF_EXCLUDE) != 0;
    if (name.starts_with(".gnu.lto_")) has_lto_ = true;
    if (name == ".note.GNU-stack" && (section.sh_flags & ELF::SHF_EXECINSTR)) FailForStack();
    Use use = UseOf(type);
    if (type == ELF::SHT_X86_64_UNWIND && name == ".eh_frame") use = Use::kContent;
    // What compilers tell LLVM's tools, and what applications keep in files for themselves.
    bool is_for_others = (type & kLLVMMask) == kLLVMTypes || type >= ELF::SHT_LOUSER;
    if (use == Use::kUnknown && ((is_for_others && !allocated) || excluded)) use = Use::kIgnored;
    switch (use) {
      case Use::kIgnored:
        return;
      case Use::kUnknown:
        Fail(Section(i) + " has type 0x" + llvm::utohexstr(type, /*LowerCase=*/true) +
             ", which is not known here: what it means would be lost. Compile without the option "
             "that makes it, or remove it (objcopy --remove-section)");
      case Use::kTable:
        if (allocated) Malformed(Section(i) + ", a table for the linker, is to be loaded");
        return;
      case Use::kContent:
        if (allocated && !excluded) ReadLoadedSection(i);
    }
  }

  void ReadLoadedSection(size_t i) {
    const Elf::Shdr& section = sections_[i];
    uint64_t unknown = section.sh_flags & ~kKnownFlags;
    if (section.sh_flags & ELF::SHF_COMPRESSED) {
      Fail(Section(i) +
           " is compressed (SHF_COMPRESSED) and to be loaded, which the format rules "
           "out");
    }
    if (unknown) {
      Fail(Section(i) + " has flags 0x" + llvm::utohexstr(unknown, /*LowerCase=*/true) +
           " that are not known here: what they mean would be lost");
    }
    uint64_t alignment = section.sh_addralign;
    if (alignment != 0 && !llvm::isPowerOf2_64(alignment)) {
      Malformed(Section(i) + " has alignment " + std::to_string(alignment));
    }
    if (alignment > kMaxAlignment) {
      Fail(Section(i) + " is aligned to " + std::to_string(alignment) + " bytes; at most " +
           std::to_string(kMaxAlignment) + " are possible, since a load lies within 2 GiB");
    }
    if (section.sh_size > kMaxSectionSize) {
      if (section.sh_type != ELF::SHT_NOBITS && section.sh_size > content_.size()) {
        Malformed(Section(i) + " reaches past the end of the file");
      }
      Fail(Section(i) + " has " + std::to_string(section.sh_size) +
           " bytes; a load has less than 2 GiB (2147483648 bytes), which 32-bit relocations reach: "
           "allocate such memory when the code runs");
    }
    bool is_thread_local = (section.sh_flags & ELF::SHF_TLS) != 0;
    if (is_thread_local && section.sh_type != ELF::SHT_PROGBITS &&
        section.sh_type != ELF::SHT_NOBITS) {
      Malformed(Section(i) + " holds thread-local variables, but is of another type");
    }
    if ((section.sh_flags & ELF::SHF_LINK_ORDER) && section.sh_link >= sections_.size()) {
      Malformed(Section(i) + " belongs to a section that is missing");
    }
    view_.loaded_[i] = true;
  }

  [[noreturn]] void FailForStack() const {
    Fail(
        "asks for an executable stack (its .note.GNU-stack is executable), which no library can "
        "have in a running process. GCC asks for it where the address of a nested function is "
        "taken: make it an ordinary function, or compile with -ftrampoline-impl=heap (GCC 14). "
        "Where the mark comes from an assembler source that does without, assemble with "
        "-Wa,--noexecstack");
  }

  // Each byte of what is loaded, and of what is read as a table, has one meaning. What is read and
  // what is checked could otherwise change each other.
  void CheckOverlaps() {
    std::vector<std::pair<uint64_t, uint64_t>> used;  // offset, size
    used.reserve(sections_.size() + 2);
    used.push_back({0, sizeof(Elf::Ehdr)});
    for (size_t i = 1; i < sections_.size(); ++i) {
      const Elf::Shdr& section = sections_[i];
      bool is_table = UseOf(section.sh_type) == Use::kTable;
      if ((!is_table && !view_.loaded_[i]) || section.sh_type == ELF::SHT_NOBITS) continue;
      if (section.sh_offset > content_.size() ||
          section.sh_size > content_.size() - section.sh_offset) {
        Malformed(Section(i) + " reaches past the end of the file");
      }
      if (section.sh_size != 0) used.push_back({section.sh_offset, section.sh_size});
    }
    used.push_back({header_.e_shoff, sections_.size() * sizeof(Elf::Shdr)});
    if (!std::is_sorted(used.begin(), used.end())) std::sort(used.begin(), used.end());
    for (size_t i = 1; i < used.size(); ++i) {
      if (used[i].first < used[i - 1].first + used[i - 1].second) {
        Malformed("two of its sections or tables overlap");
      }
    }
    if (content_.is_whole()) return;
    for (size_t i = 1; i < sections_.size(); ++i) {
      const Elf::Shdr& section = sections_[i];
      bool is_unwind_table = view_.SectionName(i) == ".eh_frame";
      if (view_.loaded_[i] && section.sh_type != ELF::SHT_NOBITS &&
          (section.sh_size <= kSmallSection || is_unwind_table)) {
        content_.Fetch(section.sh_offset, section.sh_size);
      }
    }
  }

  void ReadSymbols() {
    for (size_t i = 1; i < sections_.size(); ++i) {
      if (sections_[i].sh_type != ELF::SHT_SYMTAB) continue;
      if (symbol_table_ != 0) Malformed("two symbol tables");
      symbol_table_ = i;
    }
    if (symbol_table_ == 0) return;
    const Elf::Shdr& table = sections_[symbol_table_];
    if (table.sh_link >= sections_.size()) Malformed("names of the symbols");
    Fetch(symbol_table_);
    Fetch(table.sh_link);
    view_.symbols_ = Check(file_.symbols(&table));
    view_.symbol_names_ = Check(file_.getStringTableForSymtab(table, sections_));
    view_.first_global_ = table.sh_info;
    // The first symbol is none, and local.
    if (view_.first_global_ > view_.symbols_.size() || view_.first_global_ == 0) {
      Malformed("number of local symbols");
    }
    for (size_t i = 1; i < sections_.size(); ++i) {
      if (sections_[i].sh_type != ELF::SHT_SYMTAB_SHNDX) continue;
      Fetch(i);
      view_.extended_indices_ = Check(file_.getSHNDXTable(sections_[i], sections_));
    }
    for (size_t i = 1; i < view_.symbols_.size(); ++i) CheckSymbol(i);
  }

  void CheckSymbol(size_t i) {
    const Elf::Sym& symbol = view_.symbols_[i];
    if (symbol.st_name >= view_.symbol_names_.size()) Malformed("name of a symbol");
    auto name = [&] { return "symbol " + view_.SymbolName(i).str(); };
    bool local = i < view_.first_global_;
    switch (symbol.getBinding()) {
      case ELF::STB_LOCAL:
        if (!local) Malformed(name() + " is local, but among the global ones");
        break;
      case ELF::STB_GLOBAL:
      case ELF::STB_WEAK:
      case ELF::STB_GNU_UNIQUE:
        if (local) Malformed(name() + " is global, but among the local ones");
        if (view_.SymbolName(i).empty()) {
          Malformed((symbol.st_shndx == ELF::SHN_UNDEF
                         ? "undefined symbol '' has no name of its own"
                         : "a global symbol has no name"));
        }
        break;
      default:
        Fail(name() + " has binding " + std::to_string(symbol.getBinding()) +
             ", which is not known here");
    }
    // GCC's -flto without -ffat-lto-objects leaves no code, only this mark.
    if (has_lto_ && view_.SymbolName(i) == "__gnu_lto_slim") {
      Fail("holds only GCC's LTO bytecode: compile without -flto, or with -ffat-lto-objects");
    }
    bool is_thread_local = symbol.getType() == ELF::STT_TLS;
    switch (symbol.getType()) {
      case ELF::STT_NOTYPE:
      case ELF::STT_OBJECT:
      case ELF::STT_FUNC:
      case ELF::STT_SECTION:
      case ELF::STT_FILE:
      case ELF::STT_COMMON:
      case ELF::STT_TLS:
      case ELF::STT_GNU_IFUNC:
        break;
      default:
        Fail(name() + " has type " + std::to_string(symbol.getType()) +
             ", which is not known here");
    }
    if (symbol.st_shndx == ELF::SHN_XINDEX && i >= view_.extended_indices_.size()) {
      Malformed("extended index of " + name());
    }
    uint32_t section = view_.SectionOf(i);
    if (section == kUndefined) return;
    if (section == kCommon || section == kOfProcessor) {
      if (is_thread_local) Malformed("thread-local " + name() + " in no section");
      if (local) Malformed(name() + " is common, but local");
      if (symbol.st_value != 0 && !llvm::isPowerOf2_64(symbol.st_value)) {
        Malformed("common " + name() + " has alignment " + std::to_string(symbol.st_value));
      }
      if (symbol.st_value > kMaxAlignment || symbol.st_size > kMaxSectionSize) {
        Fail("common " + name() + " has " + std::to_string(symbol.st_size) + " bytes, aligned to " +
             std::to_string(symbol.st_value) + ": a load has less than 2 GiB (2147483648 bytes)");
      }
      return;
    }
    if (section == kAbsolute) {
      if (is_thread_local) Malformed("thread-local " + name() + " in no section");
      return;
    }
    if (section >= sections_.size()) Malformed("section index of " + name());
    if (!view_.loaded_[section]) return;
    if (symbol.st_value > sections_[section].sh_size) {
      Malformed(name() + " reaches past the end of its section");
    }
    bool in_thread_local = (sections_[section].sh_flags & ELF::SHF_TLS) != 0;
    if (symbol.getType() != ELF::STT_SECTION && is_thread_local != in_thread_local) {
      Malformed(name() + (in_thread_local ? " is not" : " is") +
                " thread-local, unlike its section");
    }
  }

  void ReadGroups() {
    std::vector<bool> in_group(sections_.size());
    for (size_t i = 1; i < sections_.size(); ++i) {
      const Elf::Shdr& section = sections_[i];
      if (section.sh_type != ELF::SHT_GROUP) continue;
      Fetch(i);
      auto words = Check(file_.getSectionContentsAsArray<Elf::Word>(section));
      if (words.empty()) Malformed(Section(i) + " has no content");
      if (section.sh_link != symbol_table_ || section.sh_info == 0 ||
          section.sh_info >= view_.symbols_.size()) {
        Malformed(Section(i) + " has no signature");
      }
      if (words[0] & ~uint32_t{ELF::GRP_COMDAT}) {
        Fail(Section(i) + " has flags 0x" + llvm::utohexstr(words[0], /*LowerCase=*/true) +
             " that are not known here: what they mean would be lost");
      }
      Group group;
      group.comdat = (words[0] & ELF::GRP_COMDAT) != 0;
      group.members = words.drop_front();
      for (uint32_t member : group.members) {
        if (member == 0 || member >= sections_.size() ||
            sections_[member].sh_type == ELF::SHT_GROUP) {
          Malformed(Section(i) + " has a member that is no section");
        }
        if (in_group[member]) Malformed(Section(member) + " is in two groups");
        in_group[member] = true;
      }
      size_t symbol = section.sh_info;
      group.signature = view_.SymbolName(symbol);
      if (group.signature.empty() && view_.symbols_[symbol].getType() == ELF::STT_SECTION) {
        uint32_t named = view_.SectionOf(symbol);
        if (named < sections_.size()) group.signature = view_.SectionName(named);
      }
      view_.groups_.push_back(group);
    }
  }

  void ReadRelocations(size_t i) {
    const Elf::Shdr& table = sections_[i];
    if (table.sh_type == ELF::SHT_RELR) {
      if (table.sh_size == 0) return;
      Fail(Section(i) +
           " holds relative relocations (SHT_RELR), which belong into linked files: "
           "link without -z pack-relative-relocs");
    }
    if (!IsTableOfContent(table.sh_type)) return;
    if (table.sh_size == 0 && table.sh_type != ELF::SHT_CREL) return;
    if (table.sh_info == 0 || table.sh_info >= sections_.size()) {
      Malformed(Section(i) + " has relocations for a section that is missing");
    }
    size_t section = table.sh_info;
    if (UseOf(sections_[section].sh_type) == Use::kTable) {
      Malformed(Section(i) + " has relocations for a table of the file");
    }
    if (!view_.loaded_[section]) return;
    if (table.sh_link != symbol_table_) Malformed(Section(i) + " has no symbols");
    Fetch(i);
    ArrayRef<Elf::Rela> relocations;
    if (table.sh_type == ELF::SHT_RELA) {
      relocations = Check(file_.relas(table));
    } else if (table.sh_type == ELF::SHT_CREL) {
      std::vector<Elf::Rela>& decoded = view_.decoded_.emplace_back();
      if (!DecodeCrel(content_.bytes().substr(table.sh_offset, table.sh_size), decoded)) {
        Malformed(Section(i) + " is no table of compact relocations (CREL)");
      }
      relocations = decoded;
    } else {
      Fail(Section(i) + " holds relocations without addends (SHT_REL), which objects for " +
           "this processor do not have");
    }
    for (const Elf::Rela& relocation : relocations) {
      if (relocation.getSymbol(false) >= std::max<size_t>(view_.symbols_.size(), 1)) {
        Malformed("a relocation's symbol index");
      }
      if (relocation.r_offset > sections_[section].sh_size) FailForOffset(section, relocation);
    }
    ArrayRef<Elf::Rela>& known = view_.relocations_[section];
    if (!known.empty()) {
      std::vector<Elf::Rela>& both = view_.decoded_.emplace_back(known.begin(), known.end());
      both.insert(both.end(), relocations.begin(), relocations.end());
      relocations = both;
    }
    known = relocations;
  }

  [[noreturn]] void FailForOffset(size_t section, const Elf::Rela& relocation) const {
    Malformed("a relocation at offset " + std::to_string(relocation.r_offset) +
              " lies outside its section of " + std::to_string(sections_[section].sh_size) +
              " bytes");
  }

  ElfView& view_;
  FileContent& content_;
  ElfFile file_;
  const Elf::Ehdr& header_;
  ArrayRef<Elf::Shdr> sections_;
  std::vector<bool> fetched_;  // tables, by section
  size_t symbol_table_ = 0;
  bool has_lto_ = false;
};

ElfView::ElfView(std::shared_ptr<FileContent> content) : content_(std::move(content)) {
  if (KindOf(content_->bytes()) != FileKind::kObject) {
    throw ObjectFormatError(name() + ": " + WhyNoObject(content_->bytes()));
  }
  Reader(*this).Run();
}

StringRef ElfView::Content(size_t section) const {
  const Elf::Shdr& header = sections_[section];
  bool was_read = content_->is_whole() || header.sh_size <= kSmallSection ||
                  SectionName(section) == ".eh_frame";
  if (header.sh_type == ELF::SHT_NOBITS || !was_read) return "";
  return content_->bytes().substr(header.sh_offset, header.sh_size);
}

void ElfView::CopyContent(size_t section, char* to) const {
  const Elf::Shdr& header = sections_[section];
  content_->Copy(header.sh_offset, header.sh_size, to);
}

uint32_t ElfView::SectionOf(size_t symbol) const {
  uint32_t index = symbols_[symbol].st_shndx;
  if (index < ELF::SHN_LORESERVE) return index;
  switch (index) {
    case ELF::SHN_XINDEX:
      return extended_indices_[symbol];
    case ELF::SHN_ABS:
      return kAbsolute;
    case ELF::SHN_COMMON:
      return kCommon;
    default:
      return kOfProcessor;
  }
}

}  // namespace object_loader
