// SPDX-License-Identifier: Apache-2.0
#include "link/tls_library.h"

#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "os/mapping.h"
#include "target/target.h"

extern "C" void* __tls_get_addr(void* module_and_offset);

namespace object_loader {

namespace {

using namespace llvm::ELF;

std::atomic<uint64_t> last_number{0};

// A name that the dynamic linker takes for a path, as which it finds the library loaded already.
std::string PathOf(const std::string& library) {
  return library.find('/') == std::string::npos ? "./" + library : library;
}

// The bytes of a shared library that holds thread-local variables and the answers to queries, which
// the dynamic linker writes when it opens it.
class Image {
 public:
  Image(const std::string& name, const TlsLibrary::Variables& variables,
        llvm::ArrayRef<TlsLibrary::Query> queries) {
    Elf64_Sym none = {};
    symbols_.push_back(none);
    uint32_t own_name = AddString(name);
    Elf64_Sym start = {};
    start.st_name = own_name;
    start.st_info = STB_GLOBAL << 4 | STT_TLS;
    start.st_shndx = 1;  // anything but undefined
    symbols_.push_back(start);

    bool is_static = false;
    for (size_t i = 0; i < queries.size(); ++i) {
      const TlsVariable& variable = queries[i].variable;
      std::string symbol = variable.module ? variable.module->name() : variable.symbol;
      if (variable.module) needed_.insert(symbol);
      if (!variable.library.empty()) needed_.insert(PathOf(variable.library));
      uint32_t index = symbol.empty() ? 0 : Import(symbol, variable.may_be_null);
      uint64_t slot = i * sizeof(TlsLibrary::Answer);
      switch (queries[i].kind) {
        case TlsLibrary::Query::kModuleAndOffset:
          Relocate(slot, kDynamicModule, index, 0);
          Relocate(slot + 8, kDynamicOffset, index, variable.offset);
          break;
        case TlsLibrary::Query::kModule:
          Relocate(slot, kDynamicModule, index, 0);
          break;
        case TlsLibrary::Query::kThreadOffset:
          Relocate(slot, kDynamicThreadOffset, index, variable.offset);
          is_static = true;
          break;
        case TlsLibrary::Query::kDescriptor:
          Relocate(slot, kDynamicDescriptor, index, variable.offset);
          break;
      }
    }
    // For this module's own number.
    Relocate(queries.size() * sizeof(TlsLibrary::Answer), kDynamicModule, 0, 0);
    Build(own_name, variables, (queries.size() + 1) * sizeof(TlsLibrary::Answer), is_static);
  }

  const std::vector<char>& bytes() const { return bytes_; }
  uint64_t answers() const { return answers_; }

 private:
  uint32_t AddString(const std::string& text) {
    uint32_t offset = static_cast<uint32_t>(strings_.size());
    strings_.append(text.c_str(), text.size() + 1);
    return offset;
  }

  uint32_t Import(const std::string& symbol, bool weak) {
    auto [entry, is_new] = imports_.try_emplace(symbol, static_cast<uint32_t>(symbols_.size()));
    if (is_new) {
      Elf64_Sym import = {};
      import.st_name = AddString(symbol);
      import.st_info = static_cast<unsigned char>((weak ? STB_WEAK : STB_GLOBAL) << 4 | STT_TLS);
      symbols_.push_back(import);
    }
    return entry->second;
  }

  // `offset` is that in the area of answers; Build adds where that lies.
  void Relocate(uint64_t offset, uint32_t type, uint32_t symbol, uint64_t addend) {
    Elf64_Rela relocation = {};
    relocation.r_offset = offset;
    relocation.r_info = uint64_t{symbol} << 32 | type;
    relocation.r_addend = static_cast<int64_t>(addend);
    relocations_.push_back(relocation);
  }

  template <typename T>
  uint64_t Append(const std::vector<T>& table) {
    bytes_.resize(llvm::alignTo(bytes_.size(), 16));
    uint64_t offset = bytes_.size();
    const char* begin = reinterpret_cast<const char*>(table.data());
    bytes_.insert(bytes_.end(), begin, begin + table.size() * sizeof(T));
    return offset;
  }

  void Build(uint32_t own_name, const TlsLibrary::Variables& variables, uint64_t answers_size,
             bool is_static) {
    std::vector<Elf64_Dyn> dynamic;
    auto add = [&](int64_t tag, uint64_t value) {
      Elf64_Dyn entry = {};
      entry.d_tag = tag;
      entry.d_un.d_val = value;
      dynamic.push_back(entry);
    };
    for (const std::string& library : needed_) add(DT_NEEDED, AddString(library));

    constexpr size_t kSegments = 4;
    bytes_.resize(sizeof(Elf64_Ehdr) + kSegments * sizeof(Elf64_Phdr));
    uint64_t symbols = Append(symbols_);
    // One bucket, with the one symbol that is defined.
    std::vector<uint32_t> hash = {1, static_cast<uint32_t>(symbols_.size()), 1};
    hash.resize(hash.size() + symbols_.size(), 0);
    uint64_t hashes = Append(hash);
    answers_ = Append(std::vector<char>(answers_size));
    for (Elf64_Rela& relocation : relocations_) relocation.r_offset += answers_;
    uint64_t relocations = Append(relocations_);
    uint64_t strings = Append(std::vector<char>(strings_.begin(), strings_.end()));

    add(DT_SONAME, own_name);
    add(DT_HASH, hashes);
    add(DT_STRTAB, strings);
    add(DT_STRSZ, strings_.size());
    add(DT_SYMTAB, symbols);
    add(DT_SYMENT, sizeof(Elf64_Sym));
    add(DT_RELA, relocations);
    add(DT_RELASZ, relocations_.size() * sizeof(Elf64_Rela));
    add(DT_RELAENT, sizeof(Elf64_Rela));
    add(DT_FLAGS, DF_BIND_NOW | (is_static ? uint64_t{DF_STATIC_TLS} : 0));
    add(DT_NULL, 0);
    uint64_t dynamics = Append(dynamic);

    bytes_.resize(llvm::alignTo(bytes_.size(), variables.alignment));
    uint64_t values = bytes_.size();
    bytes_.insert(bytes_.end(), variables.values.begin(), variables.values.end());

    Elf64_Ehdr header = {};
    std::memcpy(header.e_ident, ElfMagic, 4);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_DYN;
    header.e_machine = kMachine;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof(header);
    header.e_ehsize = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = kSegments;
    std::memcpy(bytes_.data(), &header, sizeof(header));

    auto segment = [](uint32_t type, uint64_t offset, uint64_t file_size, uint64_t size,
                      uint64_t alignment) {
      Elf64_Phdr segment = {};
      segment.p_type = type;
      segment.p_flags = PF_R | PF_W;
      segment.p_offset = segment.p_vaddr = segment.p_paddr = offset;
      segment.p_filesz = file_size;
      segment.p_memsz = size;
      segment.p_align = alignment;
      return segment;
    };
    const Elf64_Phdr segments[kSegments] = {
        segment(PT_LOAD, 0, bytes_.size(), bytes_.size(), kLargestPage),
        segment(PT_DYNAMIC, dynamics, dynamic.size() * sizeof(Elf64_Dyn),
                dynamic.size() * sizeof(Elf64_Dyn), 16),
        segment(PT_TLS, values, variables.values.size(), variables.size, variables.alignment),
        // Without it, the dynamic linker would make every thread's stack executable.
        segment(PT_GNU_STACK, 0, 0, 0, 16),
    };
    std::memcpy(bytes_.data() + sizeof(header), segments, sizeof(segments));
  }

  std::string strings_ = std::string(1, '\0');
  std::vector<Elf64_Sym> symbols_;
  std::map<std::string, uint32_t> imports_;
  std::set<std::string> needed_;
  std::vector<Elf64_Rela> relocations_;
  std::vector<char> bytes_;
  uint64_t answers_ = 0;
};

// A path to the open file that no library opened before has: the dynamic linker takes two libraries
// of one path for the same, but the number of a closed file is used again.
std::string UniquePath(int file, uint64_t number) {
  std::string path = "/proc/self/fd";
  for (; number != 0; number >>= 1) path += (number & 1) ? "/." : "/";
  return path + "/" + std::to_string(file);
}

// Whether the dynamic linker's message is about the process's limits. It has no other way to tell.
bool SaysNoRoom(const std::string& reason) {
  for (int error : {ENOMEM, EMFILE, ENFILE}) {
    if (reason.find(std::strerror(error)) != std::string::npos) return true;
  }
  return reason == "out of memory";  // none for its message, either
}

}  // namespace

std::shared_ptr<const TlsLibrary> TlsLibrary::Open(const Variables& variables,
                                                   llvm::ArrayRef<Query> queries) {
  uint64_t number = ++last_number;
  std::shared_ptr<TlsLibrary> module(new TlsLibrary);
  module->name_ = "object_loader_tls_" + std::to_string(number);
  Image image(module->name_, variables, queries);
  std::string reason;
  {
    const std::vector<char>& bytes = image.bytes();
    AnonymousFile file("object_loader_tls", 0, /*executable=*/false);
    if (!file || !file.Write(bytes.data(), bytes.size())) {
      throw OutOfMemoryError(std::string("no memory for thread-local variables: ") +
                             std::strerror(errno));
    }
    module->library_ = DynamicLibrary::Open(UniquePath(file.descriptor(), number), reason);
  }
  if (!module->library_) {
    if (reason.find("static TLS") != std::string::npos) {
      throw LinkError(
          "its thread-local variables need room that the process has set aside when it started, "
          "and none is left; compile with -fPIC and without -ftls-model (" +
          reason + ")");
    }
    if (SaysNoRoom(reason))
      throw OutOfMemoryError("no memory for thread-local variables: " + reason);
    throw LinkError("the dynamic linker refuses its thread-local variables: " + reason);
  }
  std::vector<Answer> answers(queries.size() + 1);
  std::memcpy(answers.data(),
              reinterpret_cast<const void*>(module->library_.base() + image.answers()),
              answers.size() * sizeof(Answer));
  module->id_ = answers.back()[0];
  answers.pop_back();
  module->answers_ = std::move(answers);
  return module;
}

TlsLibrary::~TlsLibrary() = default;

void* TlsLibrary::Address(uint64_t offset) const {
  uint64_t module_and_offset[2] = {id_, offset};
  return __tls_get_addr(module_and_offset);
}

}  // namespace object_loader
