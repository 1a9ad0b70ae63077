// SPDX-License-Identifier: Apache-2.0
#include "object_validation.h"

#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/MathExtras.h>
#include <llvm/Support/xxhash.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "error.h"
#include "relocation.h"

namespace object_loader {

namespace {

using llvm::StringRef;
using Elf = llvm::object::ELF64LE;
using ElfFile = llvm::object::ELFFile<Elf>;
using Shdr = Elf::Shdr;
using Sym = Elf::Sym;
namespace ELF = llvm::ELF;

// JITLink stores a block's alignment as a power of two below 2^32, and memory comes in pages of a
// reservation: nothing that a compiler emits is aligned more strictly than this.
constexpr uint64_t kMaxAlignment = uint64_t{1} << 21;

// Sections larger than this could not be reached by 32-bit relocations anyway.
constexpr uint64_t kMaxSectionSize = uint64_t{1} << 31;

// Bytes that a relocation of this type changes. Types that JITLink does not know are refused by it.
uint64_t FixupSize(uint32_t type) {
  switch (type) {
    case ELF::R_X86_64_NONE:
    case ELF::R_X86_64_TLSDESC_CALL:
      return 0;
    case ELF::R_X86_64_8:
    case ELF::R_X86_64_PC8:
      return 1;
    case ELF::R_X86_64_16:
    case ELF::R_X86_64_PC16:
      return 2;
    case ELF::R_X86_64_64:
    case ELF::R_X86_64_PC64:
    case ELF::R_X86_64_GOTOFF64:
    case ELF::R_X86_64_GOT64:
    case ELF::R_X86_64_GOTPCREL64:
    case ELF::R_X86_64_GOTPC64:
    case ELF::R_X86_64_PLTOFF64:
    case ELF::R_X86_64_DTPOFF64:
    case ELF::R_X86_64_TPOFF64:
    case ELF::R_X86_64_SIZE64:
      return 8;
    default:
      return 4;
  }
}

// The type that JITLink is shown in the place of one that asks for the place of a thread-local
// variable, or nothing for other types.
std::optional<uint32_t> ThreadLocalStandIn(uint32_t type) {
  switch (type) {
    case ELF::R_X86_64_TLSGD:
    case ELF::R_X86_64_TLSLD:
    case ELF::R_X86_64_GOTTPOFF:
    case ELF::R_X86_64_GOTPC32_TLSDESC:
      return ELF::R_X86_64_PC32;
    case ELF::R_X86_64_DTPOFF32:
    case ELF::R_X86_64_TPOFF32:
      return ELF::R_X86_64_32S;
    case ELF::R_X86_64_DTPOFF64:
    case ELF::R_X86_64_TPOFF64:
      return ELF::R_X86_64_64;
    case ELF::R_X86_64_TLSDESC_CALL:  // marks an instruction that a linker may rewrite
      return ELF::R_X86_64_NONE;
    default:
      return std::nullopt;
  }
}

// JITLink rewrites the instruction that a relaxable GOT load belongs to: its opcode bytes come
// before the relocated field.
uint64_t BytesBeforeFixup(uint32_t type) {
  switch (type) {
    case ELF::R_X86_64_GOTPCRELX:
      return 2;
    case ELF::R_X86_64_REX_GOTPCRELX:
      return 3;
    case ELF::R_X86_64_PLT32:
      return 1;
    default:
      return 0;
  }
}

// Gives loaded sections of one name the same protection, as a linker does, which makes one of them;
// JITLink insists on it. Only code and data that is written stay apart: no page is ever both. The
// code then loses its name, which nothing but its bounds is known by. Names are told apart by where
// they are in the table of strings, in which all tools keep each of them once.
void UnifySections(llvm::MutableArrayRef<Shdr> sections) {
  constexpr uint64_t kBoth = ELF::SHF_WRITE | ELF::SHF_EXECINSTR;
  std::vector<std::pair<uint32_t, Shdr*>> loaded;  // by name
  for (Shdr& section : sections) {
    bool is_loaded = section.sh_type != ELF::SHT_NULL && (section.sh_flags & ELF::SHF_ALLOC);
    if (is_loaded) loaded.push_back({section.sh_name, &section});
  }
  std::sort(loaded.begin(), loaded.end());
  for (auto first = loaded.begin(); first != loaded.end();) {
    uint64_t all = 0;
    auto last = first;
    for (; last != loaded.end() && last->first == first->first; ++last) {
      all |= last->second->sh_flags & kBoth;
    }
    for (; first != last; ++first) {
      Shdr& section = *first->second;
      if (all != kBoth) {
        section.sh_flags |= all;
      } else if ((section.sh_flags & kBoth) == ELF::SHF_EXECINSTR) {
        section.sh_name = 0;
      } else {
        section.sh_flags |= ELF::SHF_WRITE;
      }
    }
  }
}

// Keeps what it finds in containers that throw where memory runs out; LLVM's end the process.
class Validator {
 public:
  Validator(const std::string& name, llvm::MutableArrayRef<char> content)
      : name_(name),
        content_(content),
        file_(Check(ElfFile::create(StringRef(content.data(), content.size())))) {}

  ObjectFacts Run() {
    auto sections = Check(file_.sections());
    if (sections.empty()) Malformed("no section table");
    sections_ = {const_cast<Shdr*>(sections.data()), sections.size()};
    CheckSections();
    CheckTables();
    DropUnloaded();
    UnifySections(sections_);
    ReadSymbolTable();
    for (size_t i = 0; i < symbols_.size(); ++i) CheckSymbol(i);
    CheckUndefinedNames();
    for (Shdr& section : sections_) {
      if (section.sh_type == ELF::SHT_RELA) CheckRelocations(section);
    }
    return std::move(facts_);
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw ObjectFormatError(name_ + ": " + what);
  }
  [[noreturn]] void Malformed(const std::string& what) const {
    Fail("is truncated or malformed: " + what);
  }
  template <typename T>
  T Check(llvm::Expected<T> value) const {
    if (!value) Malformed(Message(value.takeError()));
    return std::move(*value);
  }

  void CheckSections() {
    StringRef section_names = Check(file_.getSectionStringTable(sections_));
    for (size_t i = 0; i < sections_.size(); ++i) {
      Shdr& section = sections_[i];
      if (section.sh_type == ELF::SHT_NULL) continue;
      StringRef section_name = Check(file_.getSectionName(section, section_names));
      if (section_name.starts_with(".gnu.lto_")) has_lto_ = true;
      // JITLink, and this loader, find sections that they add to an object by such names.
      if (section_name.starts_with("$") && (section.sh_flags & ELF::SHF_ALLOC)) {
        throw LinkError(name_ + ": section " + section_name.str() +
                        " has a name that is taken for the linker's own: rename it "
                        "(objcopy --rename-section)");
      }
      if (section.sh_type != ELF::SHT_NOBITS) {
        static_cast<void>(Check(file_.getSectionContents(section)));
      }
      if (section.sh_addralign > kMaxAlignment ||
          (section.sh_addralign != 0 && !llvm::isPowerOf2_64(section.sh_addralign))) {
        Malformed("section " + section_name.str() + " has alignment " +
                  std::to_string(section.sh_addralign));
      }
      if (section.sh_size > kMaxSectionSize) {
        Malformed("section " + section_name.str() + " has " + std::to_string(section.sh_size) +
                  " bytes");
      }
      if ((section.sh_flags & ELF::SHF_TLS) && (section.sh_flags & ELF::SHF_ALLOC)) {
        facts_.thread_local_sections.push_back(i);
      }
      if (section.sh_type == ELF::SHT_SYMTAB) {
        if (symbol_table_) Malformed("two symbol tables");
        symbol_table_ = &section;
      }
    }
  }

  // What is loaded and the tables are changed below, each after it was found good; that must not
  // change another one.
  void CheckTables() {
    const auto* header = reinterpret_cast<const Elf::Ehdr*>(content_.data());
    std::vector<std::pair<uint64_t, uint64_t>> tables = {
        {0, sizeof(Elf::Ehdr)},
        {header->e_shoff, sections_.size() * sizeof(Shdr)}};  // offset, size
    for (const Shdr& section : sections_) {
      switch (section.sh_type) {
        case ELF::SHT_SYMTAB:
        case ELF::SHT_SYMTAB_SHNDX:
        case ELF::SHT_STRTAB:
        case ELF::SHT_RELA:
          if (section.sh_flags & ELF::SHF_ALLOC) {
            Malformed("section " + Check(file_.getSectionName(section)).str() +
                      ", a table for the linker, is to be loaded");
          }
          if (section.sh_size != 0) tables.push_back({section.sh_offset, section.sh_size});
      }
    }
    for (const auto& [offset, size] : tables) facts_.table_bytes += size;
    for (const Shdr& section : sections_) {
      if ((section.sh_flags & ELF::SHF_ALLOC) && section.sh_type != ELF::SHT_NOBITS &&
          section.sh_type != ELF::SHT_NULL && section.sh_size != 0) {
        tables.push_back({section.sh_offset, section.sh_size});
      }
    }
    std::sort(tables.begin(), tables.end());
    for (size_t i = 1; i < tables.size(); ++i) {
      if (tables[i].first < tables[i - 1].first + tables[i - 1].second) {
        Malformed("two of its sections or tables overlap");
      }
    }
  }

  // Drops what never reaches memory: debug sections (whose relocations JITLink can't apply when
  // they are compressed, llvm/llvm-project#217767), notes to the linker, section groups.
  void DropUnloaded() {
    for (Shdr& section : sections_) {
      bool loaded = (section.sh_flags & ELF::SHF_ALLOC) && !(section.sh_flags & ELF::SHF_EXCLUDE);
      switch (section.sh_type) {
        case ELF::SHT_SYMTAB:
        case ELF::SHT_STRTAB:
        case ELF::SHT_SYMTAB_SHNDX:
        case ELF::SHT_RELA:
        case ELF::SHT_REL:
          break;
        default:
          if (!loaded) section.sh_type = ELF::SHT_NULL;
      }
    }
  }

  void ReadSymbolTable() {
    if (!symbol_table_) return;
    auto symbols = Check(file_.symbols(symbol_table_));
    symbols_ = {const_cast<Sym*>(symbols.data()), symbols.size()};
    symbol_names_ = Check(file_.getStringTableForSymtab(*symbol_table_, sections_));
    for (const Shdr& section : sections_) {
      if (section.sh_type == ELF::SHT_SYMTAB_SHNDX) {
        extended_indices_ = Check(file_.getSHNDXTable(section, sections_));
      }
    }
    usable_.resize(symbols_.size());
    thread_local_.resize(symbols_.size());
  }

  void CheckSymbol(size_t i) {
    Sym& symbol = symbols_[i];
    StringRef symbol_name = Check(symbol.getName(symbol_names_));
    // GCC's -flto without -ffat-lto-objects leaves no code, only this mark.
    if (has_lto_ && symbol_name == "__gnu_lto_slim") {
      Fail("holds only GCC's LTO bytecode: compile without -flto, or with -ffat-lto-objects");
    }
    // To a linker they are the same, and JITLink does not know the other.
    if (symbol.getVisibility() == ELF::STV_INTERNAL) symbol.setVisibility(ELF::STV_HIDDEN);
    if (symbol_name == "_GLOBAL_OFFSET_TABLE_") facts_.needs_got = true;
    bool is_thread_local = symbol.getType() == ELF::STT_TLS;
    bool is_indirect = symbol.getType() == ELF::STT_GNU_IFUNC;
    if (is_thread_local && (symbol.isCommon() || symbol.st_shndx == ELF::SHN_ABS)) {
      Malformed("thread-local symbol " + symbol_name.str() + " in no section");
    }
    thread_local_[i] = is_thread_local;
    // JITLink is not to know of the difference.
    if (is_thread_local) symbol.setType(ELF::STT_NOTYPE);
    if (is_indirect) symbol.setType(ELF::STT_FUNC);
    if (symbol.isCommon()) {
      if (symbol.st_size > kMaxSectionSize || symbol.st_value > kMaxAlignment ||
          !llvm::isPowerOf2_64(symbol.st_value)) {
        Malformed("common symbol " + symbol_name.str());
      }
      usable_[i] = symbol.getType() != ELF::STT_FILE;
      return;
    }
    if (symbol.st_shndx == ELF::SHN_ABS && symbol.getBinding() != ELF::STB_LOCAL) {
      facts_.absolute_symbols.push_back({symbol_name.str(), symbol.st_value,
                                         symbol.getBinding() != ELF::STB_GLOBAL,
                                         symbol.getVisibility() == ELF::STV_HIDDEN});
      symbol.st_shndx = ELF::SHN_UNDEF;
      symbol.setBinding(ELF::STB_GLOBAL);
      undefined_.push_back({llvm::xxh3_64bits(symbol_name), symbol_name});
      usable_[i] = symbol.getType() != ELF::STT_FILE;
      return;
    }
    uint32_t index = symbol.st_shndx;
    if (index == ELF::SHN_XINDEX) {
      if (i >= extended_indices_.size()) Malformed("extended index of " + symbol_name.str());
      index = extended_indices_[i];
    } else if (index >= ELF::SHN_LORESERVE || index == ELF::SHN_UNDEF) {
      usable_[i] = index == ELF::SHN_UNDEF && symbol.getBinding() != ELF::STB_LOCAL &&
                   symbol.getType() != ELF::STT_FILE;
      if (usable_[i]) undefined_.push_back({llvm::xxh3_64bits(symbol_name), symbol_name});
      return;
    }
    if (index >= sections_.size()) Malformed("section index of symbol " + symbol_name.str());
    const Shdr& section = sections_[index];
    if (symbol.st_value > section.sh_size || symbol.st_size > section.sh_size - symbol.st_value) {
      Malformed("symbol " + symbol_name.str() + " reaches past the end of its section");
    }
    bool in_thread_local = (section.sh_flags & ELF::SHF_TLS) != 0;
    unsigned type = symbol.getType();
    if (type == ELF::STT_SECTION) thread_local_[i] = in_thread_local;
    if (thread_local_[i] != in_thread_local) {
      Malformed("symbol " + symbol_name.str() + (in_thread_local ? " is not" : " is") +
                " thread-local, unlike its section");
    }
    if (is_indirect) {
      facts_.indirect_functions.push_back({index, symbol.st_value, symbol_name.str()});
    }
    usable_[i] =
        section.sh_type != ELF::SHT_NULL && (type == ELF::STT_NOTYPE || type == ELF::STT_OBJECT ||
                                             type == ELF::STT_FUNC || type == ELF::STT_SECTION);
  }

  // Of several undefined symbols of one name JITLink would let only the first be bound.
  void CheckUndefinedNames() {
    std::sort(undefined_.begin(), undefined_.end());
    for (size_t i = 0; i < undefined_.size(); ++i) {
      StringRef symbol_name = undefined_[i].second;
      if (symbol_name.empty() || (i > 0 && undefined_[i] == undefined_[i - 1])) {
        Malformed("undefined symbol '" + symbol_name.str() + "' has no name of its own");
      }
    }
  }

  void CheckRelocations(Shdr& table) {
    if (table.sh_info >= sections_.size()) Malformed("relocations for a section that is missing");
    const Shdr& target = sections_[table.sh_info];
    if (target.sh_type == ELF::SHT_NULL) {
      table.sh_type = ELF::SHT_NULL;
      return;
    }
    if (!(target.sh_flags & ELF::SHF_ALLOC)) Malformed("relocations for a table of the file");
    auto relocations = Check(file_.relas(table));
    for (const Elf::Rela& relocation : relocations) {
      CheckRelocation(const_cast<Elf::Rela&>(relocation), table.sh_info);
    }
  }

  void CheckRelocation(Elf::Rela& relocation, uint32_t section) {
    const Shdr& target = sections_[section];
    uint32_t type = relocation.getType(false);
    auto stand_in = ThreadLocalStandIn(type);
    if (stand_in) relocation.setType(*stand_in, false);
    uint64_t size = FixupSize(type);
    if (size == 0) return;
    if (target.sh_type == ELF::SHT_NOBITS || relocation.r_offset > target.sh_size ||
        size > target.sh_size - relocation.r_offset ||
        relocation.r_offset < BytesBeforeFixup(type)) {
      Malformed("a relocation at offset " + std::to_string(relocation.r_offset) +
                " lies outside its section of " + std::to_string(target.sh_size) + " bytes");
    }
    uint32_t symbol = relocation.getSymbol(false);
    if (symbol >= symbols_.size()) Malformed("a relocation's symbol index");
    if (stand_in) {
      if (!usable_[symbol]) Malformed("a relocation's symbol index");
      facts_.thread_local_relocations.push_back({section, relocation.r_offset, type});
      return;
    }
    if (thread_local_[symbol]) {
      throw LinkError(name_ + ": relocation " + RelocationName(type) +
                      " does not suit a thread-local variable, " +
                      Demangled(symbols_[symbol].getName(symbol_names_)->str()));
    }
    if (IsAppliedAsIs(type) && usable_[symbol]) return;
    Adapt(relocation, symbols_[symbol], section);
    if (relocation.getType(false) == ELF::R_X86_64_NONE) return;
    if (!usable_[symbol]) Malformed("a relocation's symbol index");
    if (type == ELF::R_X86_64_32 || type == ELF::R_X86_64_32S) {
      facts_.needs_low_memory = facts_.needs_low_memory || !symbols_[symbol].isUndefined();
    }
  }

  void Adapt(Elf::Rela& relocation, const Sym& symbol, uint32_t section) {
    uint32_t type = relocation.getType(false);
    facts_.needs_got = facts_.needs_got || NeedsGlobalOffsetTable(type);
    std::string problem =
        AdaptRelocation(relocation, symbol, symbol_names_,
                        {content_.data() + static_cast<uint64_t>(sections_[section].sh_offset),
                         static_cast<size_t>(sections_[section].sh_size)});
    if (problem.empty()) return;
    StringRef symbol_name = llvm::cantFail(symbol.getName(symbol_names_));
    throw LinkError(name_ + ": relocation " + RelocationName(type) +
                    (symbol_name.empty() ? "" : " against symbol " + Demangled(symbol_name.str())) +
                    " in section " + std::to_string(section) + " at offset " +
                    std::to_string(relocation.r_offset) + ": " + problem);
  }

  const std::string& name_;
  llvm::MutableArrayRef<char> content_;
  ElfFile file_;
  ObjectFacts facts_;
  llvm::MutableArrayRef<Shdr> sections_;
  bool has_lto_ = false;
  const Shdr* symbol_table_ = nullptr;
  llvm::MutableArrayRef<Sym> symbols_;
  StringRef symbol_names_;
  llvm::ArrayRef<Elf::Word> extended_indices_;
  std::vector<std::pair<uint64_t, StringRef>> undefined_;  // with a hash before the name
  // JITLink makes no symbol for some of them, and crashes at a relocation that refers to one it did
  // not make. Remove with LLVM's message of "Could not find symbol at given index" mended.
  std::vector<bool> usable_;
  std::vector<bool> thread_local_;
};

}  // namespace

ObjectFacts ValidateObject(const std::string& name, llvm::MutableArrayRef<char> content) {
  return Validator(name, content).Run();
}

}  // namespace object_loader
