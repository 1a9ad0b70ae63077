// SPDX-License-Identifier: Apache-2.0
#include "object_file.h"

#include <fcntl.h>
#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/DenseSet.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/BinaryFormat/Magic.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/MathExtras.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "error.h"
#include "headroom.h"
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

const char* KindOf(llvm::file_magic magic) {
  using llvm::file_magic;
  switch (magic) {
    case file_magic::bitcode:
      return "LLVM bitcode, not an object: compile without -flto and -emit-llvm";
    case file_magic::archive:
      return "an archive within an archive: extract its members (ar x) and load those";
    case file_magic::elf_executable:
      return "an executable, not an object: compile with -c and do not link";
    case file_magic::elf_core:
      return "a core file, not an object";
    case file_magic::macho_object:
    case file_magic::macho_universal_binary:
      return "a Mach-O object (macOS); this process loads ELF objects for Linux x86-64";
    case file_magic::coff_object:
    case file_magic::coff_import_library:
    case file_magic::pecoff_executable:
      return "a COFF object (Windows); this process loads ELF objects for Linux x86-64";
    case file_magic::wasm_object:
      return "a WebAssembly object; this process loads ELF objects for Linux x86-64";
    case file_magic::offload_bundle:
    case file_magic::offload_bundle_compressed:
    case file_magic::offload_binary:
      return "a bundle of objects for several targets: take the host's out of it "
             "(clang-offload-bundler --unbundle)";
    case file_magic::cuda_fatbinary:
      return "a CUDA fat binary, not an object: compile the host side with nvcc -c";
    default:
      return nullptr;
  }
}

std::string MachineName(unsigned machine) {
  switch (machine) {
    case ELF::EM_X86_64:  // of class ELFCLASS32
      return "x86-64 (x32, compiled with -mx32)";
    case ELF::EM_386:
      return "i386 (32-bit x86)";
    case ELF::EM_AARCH64:
      return "AArch64";
    case ELF::EM_ARM:
      return "32-bit Arm";
    case ELF::EM_RISCV:
      return "RISC-V";
    case ELF::EM_PPC64:
      return "PowerPC64";
    case ELF::EM_S390:
      return "s390x";
    case ELF::EM_CUDA:
      return "an NVIDIA GPU (a cubin)";
    case ELF::EM_AMDGPU:
      return "an AMD GPU";
    default:
      return "ELF machine " + std::to_string(machine);
  }
}

// What some files called libNAME.so are: text that tells ld which files to use instead.
bool IsLinkerScript(StringRef content) {
  StringRef start = content.take_front(4096);
  if (start.contains('\0')) return false;
  return start.starts_with("/* GNU ld script") || start.contains("INPUT(") ||
         start.contains("INPUT (") || start.contains("GROUP(") || start.contains("GROUP (");
}

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

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Gives loaded sections of one name the same protection, as a linker does, which makes one of them;
// JITLink insists on it. Only code and data that is written stay apart: no page is ever both. The
// code then loses its name, which nothing but its bounds is known by. Names are told apart by where
// they are in the table of strings, in which all tools keep each of them once.
void UnifySections(llvm::MutableArrayRef<Shdr> sections) {
  constexpr uint64_t kBoth = ELF::SHF_WRITE | ELF::SHF_EXECINSTR;
  llvm::SmallDenseMap<uint32_t, uint64_t, 64> flags;
  bool mixed = false;
  auto loaded = [](const Shdr& section) {
    return section.sh_type != ELF::SHT_NULL && (section.sh_flags & ELF::SHF_ALLOC);
  };
  for (const Shdr& section : sections) {
    if (!loaded(section)) continue;
    uint64_t own = section.sh_flags & kBoth;
    auto [known, is_new] = flags.try_emplace(section.sh_name, own);
    if (is_new || known->second == own) continue;
    known->second |= own;
    mixed = true;
  }
  if (!mixed) return;
  for (Shdr& section : sections) {
    if (!loaded(section)) continue;
    uint64_t all = flags.lookup(section.sh_name);
    if (all != kBoth) {
      section.sh_flags |= all;
    } else if ((section.sh_flags & kBoth) == ELF::SHF_EXECINSTR) {
      section.sh_name = 0;
    } else {
      section.sh_flags |= ELF::SHF_WRITE;
    }
  }
}

// How much of a file is read before it is looked at.
constexpr size_t kFirstPiece = 64 << 10;

// Whether a file that begins with `start` is a shared library (or a position-independent
// executable, which looks the same) for this process.
bool IsSharedLibrary(StringRef start) {
  if (start.size() < sizeof(Elf::Ehdr)) return false;
  const auto& header = *reinterpret_cast<const Elf::Ehdr*>(start.data());
  return header.checkMagic() && header.e_ident[ELF::EI_CLASS] == ELF::ELFCLASS64 &&
         header.e_ident[ELF::EI_DATA] == ELF::ELFDATA2LSB && header.e_machine == ELF::EM_X86_64 &&
         header.e_type == ELF::ET_DYN;
}

// The dynamic linker maps what a library's headers say, and touching pages past the end of a file
// is a SIGBUS. Throws ObjectFormatError where this could happen.
void CheckSegments(StringRef start, int file, uint64_t size, const std::string& path) {
  const auto& header = *reinterpret_cast<const Elf::Ehdr*>(start.data());
  std::vector<Elf::Phdr> segments(header.e_phnum);
  size_t table_size = segments.size() * sizeof(Elf::Phdr);
  if (header.e_phentsize != sizeof(Elf::Phdr) ||
      pread(file, segments.data(), table_size, static_cast<off_t>(uint64_t{header.e_phoff})) !=
          static_cast<ssize_t>(table_size)) {
    throw ObjectFormatError(path + ": is a truncated or malformed shared library: its program " +
                            "headers are not there");
  }
  for (const Elf::Phdr& segment : segments) {
    if (segment.p_offset > size || segment.p_filesz > size - segment.p_offset) {
      throw ObjectFormatError(path + ": is a truncated shared library: a segment reaches past " +
                              "the end of the file");
    }
  }
}

std::unique_ptr<llvm::WritableMemoryBuffer> NewBuffer(size_t size, const std::string& name) {
  auto buffer = llvm::WritableMemoryBuffer::getNewUninitMemBuffer(size, name);
  if (!buffer)
    throw OutOfMemoryError("no memory for the " + std::to_string(size) + " bytes of " + name);
  return buffer;
}

}  // namespace

std::unique_ptr<llvm::WritableMemoryBuffer> ReadFile(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw FileError(EINVAL, path);
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status;
  if (file.get() < 0 || fstat(file.get(), &status) != 0) throw FileError(errno, path);
  if (S_ISDIR(status.st_mode)) throw FileError(EISDIR, path);
  if (!S_ISREG(status.st_mode)) {
    throw ObjectFormatError(path + ": not a regular file; read it and pass its bytes");
  }
  auto buffer = NewBuffer(static_cast<size_t>(status.st_size), path);
  size_t done = 0;
  while (done < buffer->getBufferSize()) {
    size_t wanted = buffer->getBufferSize() - done;
    if (done == 0) wanted = std::min(wanted, kFirstPiece);
    ssize_t got = read(file.get(), buffer->getBufferStart() + done, wanted);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(errno, path);
    if (got == 0) throw ObjectFormatError(path + ": became shorter while it was read");
    bool first = done == 0;
    done += static_cast<size_t>(got);
    StringRef start(buffer->getBufferStart(), done);
    if (first && IsSharedLibrary(start)) {
      CheckSegments(start, file.get(), buffer->getBufferSize(), path);
      return nullptr;
    }
  }
  return buffer;
}

std::unique_ptr<llvm::WritableMemoryBuffer> CopyBytes(std::string_view bytes,
                                                      const std::string& name) {
  auto buffer = NewBuffer(bytes.size(), name);
  if (!bytes.empty()) std::memcpy(buffer->getBufferStart(), bytes.data(), bytes.size());
  return buffer;
}

ObjectFile::ObjectFile(std::unique_ptr<llvm::WritableMemoryBuffer> content)
    : name_(content->getBufferIdentifier()), buffer_(std::move(content)) {
  Identify();
  // LLVM's tables, some of which are used for the checks, end the process where memory runs out.
  Headroom headroom(buffer_->getBufferSize(), 0);
  Validate();
}

void ObjectFile::Fail(const std::string& what) const {
  throw ObjectFormatError(name_ + ": " + what);
}

void ObjectFile::Identify() const {
  StringRef content = buffer().getBuffer();
  if (content.empty()) Fail("is empty, not an object");
  llvm::file_magic magic = llvm::identify_magic(content);
  if (const char* kind = KindOf(magic)) Fail(std::string("is ") + kind);
  if (IsLinkerScript(content)) {
    Fail(
        "is a linker script (text), not a library: pass the shared libraries that it names "
        "themselves");
  }
  if (!content.starts_with(StringRef("\x7f"
                                     "ELF",
                                     4))) {
    Fail("is not an object file (it does not begin with an ELF header)");
  }
  if (content.size() < sizeof(Elf::Ehdr)) {
    Fail("is truncated: " + std::to_string(content.size()) + " bytes, less than an ELF header");
  }
  const auto* header = reinterpret_cast<const Elf::Ehdr*>(content.data());
  bool library = magic == llvm::file_magic::elf_shared_object;
  std::string kind = library ? "shared library" : "object";
  if (header->e_ident[ELF::EI_DATA] != ELF::ELFDATA2LSB) {
    Fail("is a big-endian " + kind + "; this process runs little-endian x86-64");
  }
  if (header->e_ident[ELF::EI_CLASS] != ELF::ELFCLASS64) {
    // e_machine lies at the same place in both classes.
    Fail("is a 32-bit " + kind + " for " + MachineName(header->e_machine) +
         "; this process runs x86-64");
  }
  if (header->e_machine != ELF::EM_X86_64) {
    Fail("is a" + std::string(library ? " " : "n ") + kind + " for " +
         MachineName(header->e_machine) + "; this process runs x86-64");
  }
  if (header->e_type == ELF::ET_DYN) {
    Fail("is a shared library, which is opened by its path: pass that instead of its bytes");
  }
  if (header->e_type != ELF::ET_REL) {
    Fail("is ELF of type " + std::to_string(header->e_type) + ", not a relocatable object");
  }
}

void ObjectFile::Validate() {
  auto check = [&](llvm::Error error) {
    if (error) Fail("is truncated or malformed: " + Message(std::move(error)));
  };
  auto malformed = [&](const std::string& what) { Fail("is truncated or malformed: " + what); };

  auto file = ElfFile::create(buffer().getBuffer());
  check(file.takeError());
  auto section_range = file->sections();
  check(section_range.takeError());
  llvm::MutableArrayRef<Shdr> sections(const_cast<Shdr*>(section_range->data()),
                                       section_range->size());
  if (sections.empty()) malformed("no section table");
  auto section_names = file->getSectionStringTable(*section_range);
  check(section_names.takeError());

  // The tables are changed below, each after it was found good; that must not change another one.
  auto* header = reinterpret_cast<const Elf::Ehdr*>(buffer().getBufferStart());
  std::vector<std::pair<uint64_t, uint64_t>> tables = {
      {0, sizeof(Elf::Ehdr)}, {header->e_shoff, sections.size() * sizeof(Shdr)}};  // offset, size

  const Shdr* symbol_table = nullptr;
  bool has_lto = false;
  for (size_t i = 0; i < sections.size(); ++i) {
    Shdr& section = sections[i];
    if (section.sh_type == ELF::SHT_NULL) continue;
    auto section_name = file->getSectionName(section, *section_names);
    check(section_name.takeError());
    if (section_name->starts_with(".gnu.lto_")) has_lto = true;
    if (section.sh_type != ELF::SHT_NOBITS) {
      auto content = file->getSectionContents(section);
      check(content.takeError());
    }
    switch (section.sh_type) {
      case ELF::SHT_SYMTAB:
      case ELF::SHT_SYMTAB_SHNDX:
      case ELF::SHT_STRTAB:
      case ELF::SHT_RELA:
        if (section.sh_size != 0) tables.push_back({section.sh_offset, section.sh_size});
    }
    if (section.sh_addralign > kMaxAlignment ||
        (section.sh_addralign != 0 && !llvm::isPowerOf2_64(section.sh_addralign))) {
      malformed("section " + section_name->str() + " has alignment " +
                std::to_string(section.sh_addralign));
    }
    if (section.sh_size > kMaxSectionSize) {
      malformed("section " + section_name->str() + " has " + std::to_string(section.sh_size) +
                " bytes");
    }
    if ((section.sh_flags & ELF::SHF_TLS) && (section.sh_flags & ELF::SHF_ALLOC)) {
      thread_local_sections_.push_back(i);
    }
    if (section.sh_type == ELF::SHT_SYMTAB) {
      if (symbol_table) malformed("two symbol tables");
      symbol_table = &section;
    }
  }

  for (const auto& [offset, size] : tables) table_bytes_ += size;
  std::sort(tables.begin(), tables.end());
  for (size_t i = 1; i < tables.size(); ++i) {
    if (tables[i].first < tables[i - 1].first + tables[i - 1].second) {
      malformed("two of its tables overlap");
    }
  }

  // Drop what never reaches memory: debug sections (whose relocations JITLink can't apply when they
  // are compressed, llvm/llvm-project#217767), notes to the linker, section groups.
  for (Shdr& section : sections) {
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
  UnifySections(sections);

  llvm::MutableArrayRef<Sym> symbols;
  StringRef symbol_names;
  llvm::ArrayRef<Elf::Word> extended_indices;
  if (symbol_table) {
    auto symbol_range = file->symbols(symbol_table);
    check(symbol_range.takeError());
    symbols = {const_cast<Sym*>(symbol_range->data()), symbol_range->size()};
    auto names = file->getStringTableForSymtab(*symbol_table, *section_range);
    check(names.takeError());
    symbol_names = *names;
    for (const Shdr& section : sections) {
      if (section.sh_type != ELF::SHT_SYMTAB_SHNDX) continue;
      auto table = file->getSHNDXTable(section, *section_range);
      check(table.takeError());
      extended_indices = *table;
    }
  }
  // Of several undefined symbols of one name JITLink would let only the first be bound.
  llvm::DenseSet<StringRef> undefined;
  auto check_undefined = [&](StringRef symbol_name) {
    if (!symbol_name.empty() && undefined.insert(symbol_name).second) return;
    malformed("undefined symbol '" + symbol_name.str() + "' has no name of its own");
  };
  // JITLink makes no symbol for some of them, and crashes at a relocation that refers to one it did
  // not make. Remove with LLVM's message of "Could not find symbol at given index" mended.
  std::vector<bool> usable(symbols.size(), false);
  std::vector<bool> thread_local_symbols(symbols.size(), false);
  for (size_t i = 0; i < symbols.size(); ++i) {
    Sym& symbol = symbols[i];
    auto symbol_name = symbol.getName(symbol_names);
    check(symbol_name.takeError());
    // GCC's -flto without -ffat-lto-objects leaves no code, only this mark.
    if (has_lto && *symbol_name == "__gnu_lto_slim") {
      Fail("holds only GCC's LTO bytecode: compile without -flto, or with -ffat-lto-objects");
    }
    // To a linker they are the same, and JITLink does not know the other.
    if (symbol.getVisibility() == ELF::STV_INTERNAL) symbol.setVisibility(ELF::STV_HIDDEN);
    if (*symbol_name == "_GLOBAL_OFFSET_TABLE_") needs_got_ = true;
    bool is_thread_local = symbol.getType() == ELF::STT_TLS;
    bool is_indirect = symbol.getType() == ELF::STT_GNU_IFUNC;
    if (is_thread_local && (symbol.isCommon() || symbol.st_shndx == ELF::SHN_ABS)) {
      malformed("thread-local symbol " + symbol_name->str() + " in no section");
    }
    thread_local_symbols[i] = is_thread_local;
    // JITLink is not to know of the difference.
    if (is_thread_local) symbol.setType(ELF::STT_NOTYPE);
    if (is_indirect) symbol.setType(ELF::STT_FUNC);
    if (symbol.isCommon()) {
      if (symbol.st_size > kMaxSectionSize || symbol.st_value > kMaxAlignment ||
          !llvm::isPowerOf2_64(symbol.st_value)) {
        malformed("common symbol " + symbol_name->str());
      }
      usable[i] = symbol.getType() != ELF::STT_FILE;
      continue;
    }
    if (symbol.st_shndx == ELF::SHN_ABS && symbol.getBinding() != ELF::STB_LOCAL) {
      absolute_symbols_.push_back({symbol_name->str(), symbol.st_value,
                                   symbol.getBinding() != ELF::STB_GLOBAL,
                                   symbol.getVisibility() == ELF::STV_HIDDEN});
      symbol.st_shndx = ELF::SHN_UNDEF;
      symbol.setBinding(ELF::STB_GLOBAL);
      check_undefined(*symbol_name);
      usable[i] = symbol.getType() != ELF::STT_FILE;
      continue;
    }
    uint32_t index = symbol.st_shndx;
    if (index == ELF::SHN_XINDEX) {
      if (i >= extended_indices.size()) malformed("extended index of " + symbol_name->str());
      index = extended_indices[i];
    } else if (index >= ELF::SHN_LORESERVE || index == ELF::SHN_UNDEF) {
      usable[i] = index == ELF::SHN_UNDEF && symbol.getBinding() != ELF::STB_LOCAL &&
                  symbol.getType() != ELF::STT_FILE;
      if (usable[i]) check_undefined(*symbol_name);
      continue;
    }
    if (index >= sections.size()) malformed("section index of symbol " + symbol_name->str());
    uint64_t size = sections[index].sh_size;
    if (symbol.st_value > size || symbol.st_size > size - symbol.st_value) {
      malformed("symbol " + symbol_name->str() + " reaches past the end of its section");
    }
    bool in_thread_local = (sections[index].sh_flags & ELF::SHF_TLS) != 0;
    if (symbol.getType() == ELF::STT_SECTION) thread_local_symbols[i] = in_thread_local;
    if (thread_local_symbols[i] != in_thread_local) {
      malformed("symbol " + symbol_name->str() + (in_thread_local ? " is not" : " is") +
                " thread-local, unlike its section");
    }
    unsigned type = symbol.getType();
    if (is_indirect) indirect_functions_.push_back({index, symbol.st_value, symbol_name->str()});
    usable[i] = sections[index].sh_type != ELF::SHT_NULL &&
                (type == ELF::STT_NOTYPE || type == ELF::STT_OBJECT || type == ELF::STT_FUNC ||
                 type == ELF::STT_SECTION);
  }

  for (Shdr& section : sections) {
    if (section.sh_type != ELF::SHT_RELA) continue;
    if (section.sh_info >= sections.size()) malformed("relocations for a section that is missing");
    const Shdr& target = sections[section.sh_info];
    if (target.sh_type == ELF::SHT_NULL) {
      section.sh_type = ELF::SHT_NULL;
      continue;
    }
    if (!(target.sh_flags & ELF::SHF_ALLOC)) malformed("relocations for a table of the file");
    auto relocation_range = file->relas(section);
    check(relocation_range.takeError());
    llvm::MutableArrayRef<Elf::Rela> relocations(const_cast<Elf::Rela*>(relocation_range->data()),
                                                 relocation_range->size());
    for (Elf::Rela& relocation : relocations) {
      uint32_t type = relocation.getType(false);
      auto stand_in = ThreadLocalStandIn(type);
      if (stand_in) relocation.setType(*stand_in, false);
      uint64_t size = FixupSize(type);
      if (size == 0) continue;
      if (target.sh_type == ELF::SHT_NOBITS || relocation.r_offset > target.sh_size ||
          size > target.sh_size - relocation.r_offset ||
          relocation.r_offset < BytesBeforeFixup(type)) {
        malformed("a relocation at offset " + std::to_string(relocation.r_offset) +
                  " lies outside its section of " + std::to_string(target.sh_size) + " bytes");
      }
      uint32_t symbol = relocation.getSymbol(false);
      if (symbol >= symbols.size()) malformed("a relocation's symbol index");
      if (stand_in) {
        if (!usable[symbol]) malformed("a relocation's symbol index");
        thread_local_relocations_.push_back({section.sh_info, relocation.r_offset, type});
        continue;
      }
      if (thread_local_symbols[symbol]) {
        throw LinkError(name_ + ": relocation " +
                        llvm::object::getELFRelocationTypeName(ELF::EM_X86_64, type).str() +
                        " does not suit a thread-local variable, " +
                        Demangled(symbols[symbol].getName(symbol_names)->str()));
      }
      if (IsAppliedAsIs(type) && usable[symbol]) continue;
      Adapt(relocation, symbols[symbol], symbol_names, sections, section);
      if (relocation.getType(false) == ELF::R_X86_64_NONE) continue;
      if (!usable[symbol]) malformed("a relocation's symbol index");
      if (type == ELF::R_X86_64_32 || type == ELF::R_X86_64_32S) {
        needs_low_memory_ = needs_low_memory_ || !symbols[symbol].isUndefined();
      }
    }
  }
}

uint64_t ObjectFile::address(size_t section) const {
  return llvm::cantFail(llvm::cantFail(ElfFile::create(buffer().getBuffer())).sections())[section]
      .sh_addr;
}

uint64_t ObjectFile::size(size_t section) const {
  return llvm::cantFail(llvm::cantFail(ElfFile::create(buffer().getBuffer())).sections())[section]
      .sh_size;
}

void ObjectFile::Adapt(Elf::Rela& relocation, const Sym& symbol, StringRef symbol_names,
                       llvm::ArrayRef<Shdr> sections, const Shdr& table) {
  const Shdr& section = sections[table.sh_info];
  uint32_t type = relocation.getType(false);
  needs_got_ = needs_got_ || NeedsGlobalOffsetTable(type);
  std::string problem = AdaptRelocation(
      relocation, symbol, symbol_names,
      {buffer_->getBufferStart() + static_cast<uint64_t>(section.sh_offset), section.sh_size});
  if (problem.empty()) return;
  StringRef symbol_name = llvm::cantFail(symbol.getName(symbol_names));
  throw LinkError(name_ + ": relocation " + RelocationName(type) +
                  (symbol_name.empty() ? "" : " against symbol " + Demangled(symbol_name.str())) +
                  " in section " + std::to_string(table.sh_info) + " at offset " +
                  std::to_string(relocation.r_offset) + ": " + problem);
}

uint64_t ObjectFile::AssignAddresses(uint64_t base) {
  auto* header = reinterpret_cast<Elf::Ehdr*>(buffer_->getBufferStart());
  auto sections = llvm::cantFail(llvm::cantFail(ElfFile::create(buffer().getBuffer())).sections());
  auto* table =
      reinterpret_cast<Shdr*>(buffer_->getBufferStart() + static_cast<uint64_t>(header->e_shoff));
  for (size_t i = 0; i < sections.size(); ++i) {
    Shdr& section = table[i];
    if (!(section.sh_flags & ELF::SHF_ALLOC)) continue;
    base = llvm::alignTo(base, section.sh_addralign ? uint64_t{section.sh_addralign} : 1);
    section.sh_addr = base;
    base += section.sh_size ? uint64_t{section.sh_size} : 1;
  }
  return base;
}

}  // namespace object_loader
