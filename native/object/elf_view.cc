// SPDX-License-Identifier: Apache-2.0
#include "object/elf_view.h"

#include <llvm/ADT/STLExtras.h>
#include <llvm/ADT/StringExtras.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/Compression.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "object/crel.h"
#include "object/elf_tables.h"
#include "object/file_kind.h"

namespace object_loader {

namespace {

using llvm::ArrayRef;
using llvm::StringRef;
namespace ELF = llvm::ELF;

bool IsTableOfContent(uint32_t type) {
  return type == ELF::SHT_RELA || type == ELF::SHT_REL || type == ELF::SHT_CREL;
}

// How many times smaller debug information may become.
constexpr uint64_t kMostCompressed = 1100;

// Of a section with SHF_COMPRESSED.
bool Decompress(std::vector<char>& content) {
  Elf::Chdr header;
  if (content.size() < sizeof(header)) return false;
  std::memcpy(&header, content.data(), sizeof(header));
  llvm::DebugCompressionType type = header.ch_type == ELF::ELFCOMPRESS_ZSTD
                                        ? llvm::DebugCompressionType::Zstd
                                        : llvm::DebugCompressionType::Zlib;
  bool is_known =
      header.ch_type == ELF::ELFCOMPRESS_ZSTD || header.ch_type == ELF::ELFCOMPRESS_ZLIB;
  if (!is_known || header.ch_size > ElfSections::kMaxSize ||
      llvm::compression::getReasonIfUnsupported(llvm::compression::formatFor(type))) {
    return false;
  }
  ArrayRef<char> compressed = ArrayRef<char>(content).drop_front(sizeof(header));
  // More than deflate can do: what the header says would take much memory for nothing.
  if (header.ch_size / kMostCompressed > compressed.size()) return false;
  llvm::SmallVector<uint8_t, 0> plain;
  llvm::Error error = llvm::compression::decompress(
      type,
      ArrayRef<uint8_t>(reinterpret_cast<const uint8_t*>(compressed.data()), compressed.size()),
      plain, header.ch_size);
  if (error) return llvm::consumeError(std::move(error)), false;
  if (plain.size() != header.ch_size) return false;
  content.assign(plain.begin(), plain.end());
  return true;
}

}  // namespace

// Fills in a view.
class ElfView::Reader {
 public:
  explicit Reader(ElfView& view)
      : view_(view),
        content_(*view.content_),
        tables_(content_),
        file_(tables_.file()),
        sections_(view.sections_) {}

  void Run() {
    view_.sections_ = ElfSections(tables_);
    ReadSymbols();
    ReadGroups();
    view_.relocations_.resize(sections_.size());
    for (size_t i = 0; i < sections_.size(); ++i) ReadRelocations(i);
    view_.table_bytes_ = tables_.bytes();
  }

 private:
  void ReadSymbols() {
    for (size_t i = 1; i < sections_.size(); ++i) {
      if (sections_[i].sh_type != ELF::SHT_SYMTAB) continue;
      if (symbol_table_ != 0) tables_.Malformed("two symbol tables");
      symbol_table_ = i;
    }
    if (symbol_table_ == 0) return;
    const Elf::Shdr& table = sections_[symbol_table_];
    if (table.sh_link >= sections_.size()) tables_.Malformed("names of the symbols");
    tables_.Fetch(symbol_table_);
    tables_.Fetch(table.sh_link);
    view_.symbols_ = tables_.Check(file_.symbols(&table));
    view_.symbol_names_ = tables_.Check(file_.getStringTableForSymtab(table, sections_.headers()));
    view_.first_global_ = table.sh_info;
    // The first symbol is none, and local.
    if (view_.first_global_ > view_.symbols_.size() || view_.first_global_ == 0) {
      tables_.Malformed("number of local symbols");
    }
    for (size_t i = 1; i < sections_.size(); ++i) {
      if (sections_[i].sh_type != ELF::SHT_SYMTAB_SHNDX) continue;
      tables_.Fetch(i);
      view_.extended_indices_ =
          tables_.Check(file_.getSHNDXTable(sections_[i], sections_.headers()));
    }
    for (size_t i = 1; i < view_.symbols_.size(); ++i) CheckSymbol(i);
  }

  void CheckSymbol(size_t i) {
    const Elf::Sym& symbol = view_.symbols_[i];
    if (symbol.st_name >= view_.symbol_names_.size()) tables_.Malformed("name of a symbol");
    auto name = [&] { return "symbol " + view_.SymbolName(i).str(); };
    bool local = i < view_.first_global_;
    switch (symbol.getBinding()) {
      case ELF::STB_LOCAL:
        if (!local) tables_.Malformed(name() + " is local, but among the global ones");
        break;
      case ELF::STB_GLOBAL:
      case ELF::STB_WEAK:
      case ELF::STB_GNU_UNIQUE:
        if (local) tables_.Malformed(name() + " is global, but among the local ones");
        if (view_.SymbolName(i).empty()) {
          tables_.Malformed((symbol.st_shndx == ELF::SHN_UNDEF
                                 ? "undefined symbol '' has no name of its own"
                                 : "a global symbol has no name"));
        }
        break;
      default:
        tables_.Fail(name() + " has binding " + std::to_string(symbol.getBinding()) +
                     ", which is not known here");
    }
    // GCC's -flto without -ffat-lto-objects leaves no code, only this mark.
    if (sections_.has_lto() && view_.SymbolName(i) == "__gnu_lto_slim") {
      tables_.Fail(
          "holds only GCC's LTO bytecode: compile without -flto, or with -ffat-lto-objects");
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
        tables_.Fail(name() + " has type " + std::to_string(symbol.getType()) +
                     ", which is not known here");
    }
    if (symbol.st_shndx == ELF::SHN_XINDEX && i >= view_.extended_indices_.size()) {
      tables_.Malformed("extended index of " + name());
    }
    uint32_t section = view_.SectionOf(i);
    if (section == kUndefined) return;
    if (section == kCommon || section == kOfProcessor) {
      if (is_thread_local) tables_.Malformed("thread-local " + name() + " in no section");
      if (local) tables_.Malformed(name() + " is common, but local");
      if (symbol.st_value != 0 && !llvm::isPowerOf2_64(symbol.st_value)) {
        tables_.Malformed("common " + name() + " has alignment " + std::to_string(symbol.st_value));
      }
      if (symbol.st_value > ElfSections::kMaxAlignment || symbol.st_size > ElfSections::kMaxSize) {
        tables_.Fail("common " + name() + " has " + std::to_string(symbol.st_size) +
                     " bytes, aligned to " + std::to_string(symbol.st_value) +
                     ": a load has less than 2 GiB (2147483648 bytes)");
      }
      return;
    }
    if (section == kAbsolute) {
      if (is_thread_local) tables_.Malformed("thread-local " + name() + " in no section");
      return;
    }
    if (section >= sections_.size()) tables_.Malformed("section index of " + name());
    if (!sections_.IsLoaded(section)) return;
    if (symbol.st_value > sections_[section].sh_size) {
      tables_.Malformed(name() + " reaches past the end of its section");
    }
    bool in_thread_local = (sections_[section].sh_flags & ELF::SHF_TLS) != 0;
    if (symbol.getType() != ELF::STT_SECTION && is_thread_local != in_thread_local) {
      tables_.Malformed(name() + (in_thread_local ? " is not" : " is") +
                        " thread-local, unlike its section");
    }
  }

  void ReadGroups() {
    std::vector<bool> in_group(sections_.size());
    for (size_t i = 1; i < sections_.size(); ++i) {
      const Elf::Shdr& section = sections_[i];
      if (section.sh_type != ELF::SHT_GROUP) continue;
      tables_.Fetch(i);
      auto words = tables_.Check(file_.getSectionContentsAsArray<Elf::Word>(section));
      if (words.empty()) tables_.Malformed(sections_.Label(i) + " has no content");
      if (section.sh_link != symbol_table_ || section.sh_info == 0 ||
          section.sh_info >= view_.symbols_.size()) {
        tables_.Malformed(sections_.Label(i) + " has no signature");
      }
      if (words[0] & ~uint32_t{ELF::GRP_COMDAT}) {
        tables_.Fail(sections_.Label(i) + " has flags 0x" +
                     llvm::utohexstr(words[0], /*LowerCase=*/true) +
                     " that are not known here: what they mean would be lost");
      }
      Group group;
      group.comdat = (words[0] & ELF::GRP_COMDAT) != 0;
      group.members = words.drop_front();
      for (uint32_t member : group.members) {
        if (member == 0 || member >= sections_.size() ||
            sections_[member].sh_type == ELF::SHT_GROUP) {
          tables_.Malformed(sections_.Label(i) + " has a member that is no section");
        }
        if (in_group[member]) tables_.Malformed(sections_.Label(member) + " is in two groups");
        in_group[member] = true;
      }
      size_t symbol = section.sh_info;
      group.signature = view_.SymbolName(symbol);
      if (group.signature.empty() && view_.symbols_[symbol].getType() == ELF::STT_SECTION) {
        uint32_t named = view_.SectionOf(symbol);
        if (named < sections_.size()) group.signature = sections_.Name(named);
      }
      view_.groups_.push_back(group);
    }
  }

  void ReadRelocations(size_t i) {
    const Elf::Shdr& table = sections_[i];
    if (table.sh_type == ELF::SHT_RELR) {
      if (table.sh_size == 0) return;
      tables_.Fail(sections_.Label(i) +
                   " holds relative relocations (SHT_RELR), which belong into linked files: "
                   "link without -z pack-relative-relocs");
    }
    if (!IsTableOfContent(table.sh_type)) return;
    if (table.sh_size == 0 && table.sh_type != ELF::SHT_CREL) return;
    if (table.sh_info == 0 || table.sh_info >= sections_.size()) {
      tables_.Malformed(sections_.Label(i) + " has relocations for a section that is missing");
    }
    size_t section = table.sh_info;
    if (sections_.IsTable(section)) {
      tables_.Malformed(sections_.Label(i) + " has relocations for a table of the file");
    }
    if (!sections_.IsLoaded(section)) return;
    if (table.sh_link != symbol_table_) tables_.Malformed(sections_.Label(i) + " has no symbols");
    tables_.Fetch(i);
    ArrayRef<Elf::Rela> relocations;
    if (table.sh_type == ELF::SHT_RELA) {
      relocations = tables_.Check(file_.relas(table));
    } else if (table.sh_type == ELF::SHT_CREL) {
      std::vector<Elf::Rela>& decoded = view_.decoded_.emplace_back();
      if (!DecodeCrel(content_.bytes().substr(table.sh_offset, table.sh_size), decoded)) {
        tables_.Malformed(sections_.Label(i) + " is no table of compact relocations (CREL)");
      }
      relocations = decoded;
    } else {
      tables_.Fail(sections_.Label(i) +
                   " holds relocations without addends (SHT_REL), which objects for " +
                   "this processor do not have");
    }
    for (const Elf::Rela& relocation : relocations) {
      if (relocation.getSymbol(false) >= std::max<size_t>(view_.symbols_.size(), 1)) {
        tables_.Malformed("a relocation's symbol index");
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
    tables_.Malformed("a relocation at offset " + std::to_string(relocation.r_offset) +
                      " lies outside its section of " + std::to_string(sections_[section].sh_size) +
                      " bytes");
  }

  ElfView& view_;
  FileContent& content_;
  ElfTables tables_;
  const llvm::object::ELF64LEFile& file_;
  const ElfSections& sections_;
  size_t symbol_table_ = 0;
};

ElfView::ElfView(std::shared_ptr<FileContent> content) : content_(std::move(content)) {
  if (KindOf(content_->bytes()) != FileKind::kObject) {
    throw ObjectFormatError(name() + ": " + WhyNoObject(content_->bytes()));
  }
  Reader(*this).Run();
}

StringRef ElfView::Content(size_t section) const {
  const Elf::Shdr& header = sections_[section];
  bool was_read = content_->is_whole() || sections_.IsReadAtOnce(section);
  if (header.sh_type == ELF::SHT_NOBITS || !was_read) return "";
  return content_->bytes().substr(header.sh_offset, header.sh_size);
}

void ElfView::CopyContent(size_t section, char* to) const {
  const Elf::Shdr& header = sections_[section];
  content_->Copy(header.sh_offset, header.sh_size, to);
}

bool ElfView::ReadUnloaded(size_t section, std::vector<char>& content,
                           std::vector<Elf::Rela>& relocations) const {
  auto read = [&](const Elf::Shdr& header, std::vector<char>& to) {
    if (header.sh_offset > size() || header.sh_size > size() - header.sh_offset) return false;
    to.resize(header.sh_size);
    content_->Copy(header.sh_offset, header.sh_size, to.data());
    return true;
  };
  const Elf::Shdr& header = sections()[section];
  if (header.sh_type == ELF::SHT_NOBITS || !read(header, content)) return false;
  if ((header.sh_flags & ELF::SHF_COMPRESSED) && !Decompress(content)) return false;
  for (const Elf::Shdr& table : sections()) {
    if (table.sh_info != section || !IsTableOfContent(table.sh_type)) continue;
    std::vector<char> bytes;
    if (!read(table, bytes)) return false;
    if (table.sh_type == ELF::SHT_CREL) {
      if (!DecodeCrel(StringRef(bytes.data(), bytes.size()), relocations)) return false;
    } else if (table.sh_type == ELF::SHT_RELA && bytes.size() % sizeof(Elf::Rela) == 0) {
      size_t before = relocations.size();
      relocations.resize(before + bytes.size() / sizeof(Elf::Rela));
      if (!bytes.empty()) std::memcpy(&relocations[before], bytes.data(), bytes.size());
    } else {
      return false;
    }
  }
  return llvm::all_of(relocations, [&](const Elf::Rela& relocation) {
    return relocation.r_offset <= content.size() &&
           relocation.getSymbol(false) < std::max<size_t>(symbols_.size(), 1);
  });
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
