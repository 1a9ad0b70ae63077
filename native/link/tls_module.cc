// SPDX-License-Identifier: Apache-2.0
#include "link/tls_module.h"

#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/FileSystem.h>
#include <llvm/Support/MathExtras.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "base/error.h"
#include "link/elf_header.h"
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
  Image(const std::string& name, const TlsModule::Variables& variables,
        llvm::ArrayRef<TlsModule::Query> queries) {
    Elf64_Sym none = {};
    symbols_.push_back(none);
    uint32_t own_name = AddString(name);
    Elf64_Sym start = {};
    start.st_name = own_name;
    start.st_info = STB_GLOBAL << 4 | STT_TLS;
    start.st_shndx = 1;  // anything but undefined
    symbols_.push_back(start);
    version_of_.resize(symbols_.size(), VER_NDX_GLOBAL);

    bool is_static = false;
    for (size_t i = 0; i < queries.size(); ++i) {
      const TlsVariable& variable = queries[i].variable;
      std::string symbol = variable.module ? variable.module->name() : variable.symbol;
      if (variable.module) needed_.insert(symbol);
      if (!variable.library.empty()) needed_.insert(PathOf(variable.library));
      uint32_t index = symbol.empty() ? 0 : Import(symbol, variable);
      uint64_t slot = i * sizeof(TlsModule::Answer);
      switch (queries[i].kind) {
        case TlsModule::Query::kModuleAndOffset:
          Relocate(slot, kDynamicModule, index, 0);
          Relocate(slot + 8, kDynamicOffset, index, variable.offset);
          break;
        case TlsModule::Query::kModule:
          Relocate(slot, kDynamicModule, index, 0);
          break;
        case TlsModule::Query::kThreadOffset:
          Relocate(slot, kDynamicThreadOffset, index, variable.offset);
          is_static = true;
          break;
        case TlsModule::Query::kDescriptor:
          Relocate(slot, kDynamicDescriptor, index, variable.offset);
          break;
      }
    }
    // For this module's own number.
    Relocate(queries.size() * sizeof(TlsModule::Answer), kDynamicModule, 0, 0);
    Build(own_name, variables, (queries.size() + 1) * sizeof(TlsModule::Answer), is_static);
  }

  const std::vector<char>& bytes() const { return bytes_; }
  uint64_t answers() const { return answers_; }

 private:
  uint32_t AddString(const std::string& text) {
    uint32_t offset = static_cast<uint32_t>(strings_.size());
    strings_.append(text.c_str(), text.size() + 1);
    return offset;
  }

  uint32_t Import(const std::string& symbol, const TlsVariable& variable) {
    auto [entry, is_new] =
        imports_.try_emplace({symbol, variable.version}, static_cast<uint32_t>(symbols_.size()));
    if (is_new) {
      Elf64_Sym import = {};
      import.st_name = AddString(symbol);
      import.st_info =
          static_cast<unsigned char>((variable.may_be_null ? STB_WEAK : STB_GLOBAL) << 4 | STT_TLS);
      symbols_.push_back(import);
      // Of the program itself, which has no name, the default version is found.
      version_of_.push_back(variable.version.empty() || variable.library.empty()
                                ? uint16_t{VER_NDX_GLOBAL}
                                : NumberOfVersion(variable));
    }
    return entry->second;
  }

  // Adds the version to those that are needed: which library's, its name, and the number that
  // symbols know it by.
  uint16_t NumberOfVersion(const TlsVariable& variable) {
    auto number = static_cast<uint16_t>(version_numbers_.size() + VER_NDX_GLOBAL + 1);
    auto [known, is_new] =
        version_numbers_.try_emplace({PathOf(variable.library), variable.version}, number);
    if (is_new) {
      constexpr uint32_t kEntrySize = 16;
      uint32_t next = 2 * kEntrySize;
      needed_versions_.insert(needed_versions_.end(),
                              {VER_NEED_CURRENT | 1U << 16, AddString(PathOf(variable.library)),
                               kEntrySize, next, llvm::object::hashSysV(variable.version),
                               uint32_t{number} << 16, AddString(variable.version), 0});
    }
    return known->second;
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

  void Build(uint32_t own_name, const TlsModule::Variables& variables, uint64_t answers_size,
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

    if (!needed_versions_.empty()) {
      needed_versions_[needed_versions_.size() - 5] = 0;  // the last one has no next one
      add(DT_VERSYM, Append(version_of_));
      add(DT_VERNEED, Append(needed_versions_));
      add(DT_VERNEEDNUM, version_numbers_.size());
    }
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

    const Elf64_Ehdr header = ElfHeader(kSegments);
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
  std::vector<uint16_t> version_of_;  // of each symbol
  std::map<std::pair<std::string, std::string>, uint32_t> imports_;
  std::map<std::pair<std::string, std::string>, uint16_t> version_numbers_;
  std::vector<uint32_t> needed_versions_;  // eight words each: Verneed and its one Vernaux
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
  return reason == "out of memory" ||  // none for its message, either
         reason.find("failed to map segment") != std::string::npos;
}

// The part of a TlsModule that is left to the dynamic linker: a library with these variables, and
// what it wrote into it.
TlsModule::Library OpenLibrary(const std::string& name, const TlsModule::Variables& variables,
                               llvm::ArrayRef<TlsModule::Query> queries) {
  Image image(name, variables, queries);
  TlsModule::Library opened;
  std::string reason;
  const std::vector<char>& bytes = image.bytes();
  Refusals refusals;
  AnonymousFile file("object_loader_tls", 0, /*executable=*/false, refusals);
  bool is_written = file && file.Write(bytes.data(), bytes.size());
  std::string path = UniquePath(file.descriptor(), ++last_number);
  if (is_written && llvm::sys::fs::exists(path)) {
    opened.library = DynamicLibrary::Open(path, reason);
  } else {
    // Without /proc files have to have a name.
    TemporaryFile named(bytes);
    if (named.path().empty()) {
      throw OutOfMemoryError(std::string("no memory for thread-local variables: ") +
                             std::strerror(errno));
    }
    opened.library = DynamicLibrary::Open(named.path(), reason);
  }
  if (!opened.library) {
    if (reason.find("static TLS") != std::string::npos) {
      throw LinkError(
          "its thread-local variables need room that the process has set aside when it started, "
          "and none is left; compile with -fPIC and without -ftls-model (" +
          reason + ")");
    }
    if (SaysNoRoom(reason)) {
      throw OutOfMemoryError("no memory for thread-local variables: " + reason);
    }
    throw LinkError("the dynamic linker refuses its thread-local variables: " + reason);
  }
  opened.answers.resize(queries.size() + 1);
  std::memcpy(opened.answers.data(),
              reinterpret_cast<const void*>(opened.library.base() + image.answers()),
              opened.answers.size() * sizeof(TlsModule::Answer));
  opened.number = opened.answers.back()[0];
  opened.answers.pop_back();
  return opened;
}

// Set in what code passes to __tls_get_addr for a module: the rest is a ThreadStorage. The dynamic
// linker's numbers of modules are small.
constexpr uint64_t kOwnModule = 1ULL << 63;

bool IsDynamic(const TlsModule::Query& query) {
  return query.kind == TlsModule::Query::kModuleAndOffset ||
         query.kind == TlsModule::Query::kModule;
}

bool IsOfModule(const TlsModule::Query& query) {
  return !query.variable.module && query.variable.symbol.empty();
}

}  // namespace

std::shared_ptr<const TlsModule> TlsModule::Open(Variables variables,
                                                 llvm::ArrayRef<Query> queries) {
  std::shared_ptr<TlsModule> module(new TlsModule);
  module->name_ = "object_loader_tls_" + std::to_string(++last_number);
  bool is_own = std::all_of(queries.begin(), queries.end(), [](const Query& query) {
    return IsDynamic(query) || !IsOfModule(query);
  });
  if (is_own && (variables.size > 0 || std::any_of(queries.begin(), queries.end(), IsOfModule))) {
    module->storage_ = std::make_unique<ThreadStorage>(std::move(variables.values), variables.size,
                                                       variables.alignment);
    variables = {};
  }
  module->answers_.resize(queries.size());
  std::vector<Query> left;  // for the dynamic linker
  std::vector<size_t> places;
  for (size_t i = 0; i < queries.size(); ++i) {
    const Query& query = queries[i];
    const TlsModule* of = IsOfModule(query) ? module.get() : query.variable.module.get();
    if (of && of->storage_ && IsDynamic(query)) {
      module->answers_[i] = {kOwnModule | reinterpret_cast<uint64_t>(of->storage_.get()),
                             query.variable.offset};
      continue;
    }
    if (query.variable.module) query.variable.module->BecomeLibrary();
    left.push_back(query);
    places.push_back(i);
  }
  if (!is_own) {
    module->library_ = OpenLibrary(module->name_, variables, left);
  } else if (!left.empty()) {
    module->asking_ = OpenLibrary(module->name_ + "_asks", {}, left);
  }
  const Library& library = is_own ? module->asking_ : module->library_;
  for (size_t i = 0; i < left.size(); ++i) module->answers_[places[i]] = library.answers[i];
  return module;
}

TlsModule::~TlsModule() = default;

void TlsModule::BecomeLibrary() const {
  auto has_become = [this] {
    std::lock_guard<Mutex> lock(mutex_);
    return static_cast<bool>(library_.library);
  };
  if (has_become()) return;
  Library opened =
      OpenLibrary(name_, {storage_->values(), storage_->size(), storage_->alignment()}, {});
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (library_.library) return;  // another thread was faster
    if (storage_->Become(opened.number)) {
      library_ = std::move(opened);
      return;
    }
  }
  throw LinkError(
      "it takes thread-local variables of another load for ones that are at the same place in "
      "every thread, which they are not since threads have used them; load it before that, or "
      "compile with -fPIC and without -ftls-model");
}

void* TlsModule::Address(uint64_t offset) const {
  if (storage_) return storage_->OfThisThread() + offset;
  uint64_t module_and_offset[2] = {library_.number, offset};
  return __tls_get_addr(module_and_offset);
}

void* TlsGetAddr(uint64_t* module_and_offset) {
  uint64_t module = module_and_offset[0];
  if (module & kOwnModule) {
    auto* storage = reinterpret_cast<ThreadStorage*>(module & ~kOwnModule);
    return storage->OfThisThread() + module_and_offset[1];
  }
  return module == 0 ? nullptr : __tls_get_addr(module_and_offset);
}

}  // namespace object_loader
