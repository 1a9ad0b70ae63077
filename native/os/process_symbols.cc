// SPDX-License-Identifier: Apache-2.0
#include "os/process_symbols.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "os/dynamic_symbols.h"
#include "os/exit_handlers.h"
#include "os/thread_exit.h"

namespace object_loader {

namespace {

using llvm::StringRef;
using llvm::orc::SymbolStringPtr;

// As dlsym; a reference that .symver made names the version that it wants, "memcpy@GLIBC_2.2.5".
void* FindInScope(void* scope, StringRef symbol) {
  auto [name, version] = symbol.split('@');
  version = version.ltrim('@');
  if (version.empty()) return dlsym(scope, symbol.str().c_str());
  void* address = dlvsym(scope, name.str().c_str(), version.str().c_str());
  return address && DefinesVersion(address, version.str()) ? address : nullptr;
}

std::map<std::string, void*>& Replacements() {
  static auto* replacements = new std::map<std::string, void*>(ThreadExitFunctions());
  return *replacements;
}

constexpr unsigned kMostLibraries = 1024;

// What the global scope may have gained since names were looked up in it.
struct NewLibraries {
  // Of each library when it was first seen; of the names, which are looked for.
  llvm::DenseMap<const void*, uint64_t>& first_seen;
  std::vector<std::pair<const char*, uint64_t>> names;  // and as of when nothing was found
  std::vector<bool> defined;                            // by a library opened since
  uint64_t now = 0;
  uint64_t oldest = 0;  // of the names

  static int Visit(dl_phdr_info* info, size_t, void* result) {
    auto& self = *static_cast<NewLibraries*>(result);
    self.now = info->dlpi_adds;
    // Nothing was opened: there is no need to look at the others.
    if (self.oldest == self.now) return 1;
    uint64_t seen = self.first_seen.try_emplace(info->dlpi_phdr, self.now).first->second;
    if (seen <= self.oldest) return 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr) & segment = info->dlpi_phdr[i];
      if (segment.p_type != PT_DYNAMIC) continue;
      DynamicSymbols symbols(info->dlpi_addr,
                             reinterpret_cast<const ElfW(Dyn)*>(info->dlpi_addr + segment.p_vaddr));
      for (size_t name = 0; name < self.names.size(); ++name) {
        if (seen > self.names[name].second && symbols.Defines(self.names[name].first)) {
          self.defined[name] = true;
        }
      }
    }
    return 0;
  }
};

struct Range {
  uintptr_t address;
  bool is_read_only = false;
  bool is_code = false;
};

int FindSegment(dl_phdr_info* info, size_t, void* result) {
  auto* range = static_cast<Range*>(result);
  auto holds = [&](const ElfW(Phdr) & segment) {
    return range->address - (info->dlpi_addr + segment.p_vaddr) < segment.p_memsz;
  };
  bool here = false;
  bool relocated = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) & segment = info->dlpi_phdr[i];
    if (!holds(segment)) continue;
    if (segment.p_type == PT_LOAD) {
      here = true;
      range->is_read_only = (segment.p_flags & PF_W) == 0;
      range->is_code = (segment.p_flags & PF_X) != 0;
    }
    relocated = relocated || segment.p_type == PT_GNU_RELRO;
  }
  range->is_read_only = range->is_read_only || relocated;
  return here;
}

}  // namespace

void ReplaceProcessSymbol(const std::string& symbol, void* address) {
  Replacements()[symbol] = address;
}

ProcessSymbols::ProcessSymbols(llvm::ArrayRef<const char*> first_versions)
    : first_versions_(first_versions.begin(), first_versions.end()),
      tvm_ffi_(DynamicLibrary::Opened("libtvm_ffi.so")) {}

ProcessSymbols::~ProcessSymbols() = default;

std::vector<void*> ProcessSymbols::Find(llvm::ArrayRef<SymbolStringPtr> names) {
  std::vector<void*> addresses(names.size());
  std::vector<size_t> unknown;
  {
    std::lock_guard<Mutex> lock(mutex_);
    for (size_t i = 0; i < names.size(); ++i) {
      auto known = found_.find(names[i]);
      if (known != found_.end()) {
        addresses[i] = known->second;
      } else {
        unknown.push_back(i);
      }
    }
  }
  for (size_t i : unknown) addresses[i] = FindNew(names[i]);
  return addresses;
}

void* ProcessSymbols::FindNew(const SymbolStringPtr& name) {
  std::string symbol(*name);
  if (void* ours = ExitFunction(symbol)) return ours;
  auto replacement = Replacements().find(symbol);
  if (replacement != Replacements().end()) {
    std::lock_guard<Mutex> lock(mutex_);
    return found_[name] = replacement->second;
  }
  void* address = FindInScope(RTLD_DEFAULT, symbol);
  if (address == nullptr && tvm_ffi_) {
    address = tvm_ffi_.FindWithDependencies(symbol).value_or(nullptr);
  }
  for (const char* version : first_versions_) {
    if (address == nullptr) address = dlvsym(RTLD_DEFAULT, symbol.c_str(), version);
  }
  // The vector functions that GCC calls in place of libm's, where -lm links their library.
  if (address == nullptr && StringRef(symbol).starts_with("_ZGV")) {
    if (const DynamicLibrary* library = VectorMath()) {
      address = library->FindWithDependencies(symbol).value_or(nullptr);
    }
  }
  if (address) {
    Pin(address);
    std::lock_guard<Mutex> lock(mutex_);
    found_[name] = address;
  }
  return address;
}

const DynamicLibrary* ProcessSymbols::VectorMath() {
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (vector_math_) return &vector_math_;
  }
  std::string ignored;
  DynamicLibrary library = DynamicLibrary::Open("libmvec.so.1", ignored);
  std::lock_guard<Mutex> lock(mutex_);
  if (!vector_math_) vector_math_ = std::move(library);
  return vector_math_ ? &vector_math_ : nullptr;
}

std::vector<void*> ProcessSymbols::FindGlobal(llvm::ArrayRef<SymbolStringPtr> names) {
  std::vector<void*> addresses(names.size());
  if (names.empty()) return addresses;
  std::vector<size_t> unknown;
  std::vector<std::string> texts;
  NewLibraries libraries = {first_seen_, {}, std::vector<bool>(names.size()), 0, ~uint64_t{0}};
  {
    std::lock_guard<Mutex> lock(mutex_);
    for (const SymbolStringPtr& name : names) {
      auto known = global_.find(name);
      // What is found stays, with its library.
      uint64_t as_of = known == global_.end()             ? 0
                       : known->second.address != nullptr ? ~uint64_t{0}
                                                          : known->second.as_of;
      texts.emplace_back(*name);
      libraries.names.push_back({nullptr, as_of});
      if (as_of != 0) libraries.oldest = std::min(libraries.oldest, as_of);
    }
    for (size_t i = 0; i < names.size(); ++i) libraries.names[i].first = texts[i].c_str();
    // Most of so many are gone. Those that are not will be taken for new ones once.
    if (first_seen_.size() > kMostLibraries) first_seen_.clear();
    dl_iterate_phdr(NewLibraries::Visit, &libraries);
    for (size_t i = 0; i < names.size(); ++i) {
      if (libraries.names[i].second == 0 || libraries.defined[i]) {
        unknown.push_back(i);
        continue;
      }
      Global& known = global_[names[i]];
      known.as_of = libraries.now;
      addresses[i] = known.address;
    }
  }
  for (size_t i : unknown) {
    addresses[i] = FindInScope(RTLD_DEFAULT, *names[i]);
    if (addresses[i]) Pin(addresses[i]);
    std::lock_guard<Mutex> lock(mutex_);
    global_[names[i]] = {addresses[i], libraries.now};
  }
  return addresses;
}

void ProcessSymbols::Pin(void* address) {
  Dl_info info;
  if (!dladdr(address, &info) || !info.dli_fname) return;
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (pinned_.count(info.dli_fbase)) return;
  }
  DynamicLibrary library = DynamicLibrary::Opened(info.dli_fname);
  std::lock_guard<Mutex> lock(mutex_);
  pinned_.try_emplace(info.dli_fbase, std::move(library));
}

std::optional<std::string> FindThreadLocal(const std::string& symbol) {
  struct Search {
    const std::string& symbol;
    std::optional<std::string> library;
  } search = {symbol, std::nullopt};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        auto& self = *static_cast<Search*>(result);
        if (info->dlpi_tls_modid == 0) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr) & segment = info->dlpi_phdr[i];
          if (segment.p_type != PT_DYNAMIC) continue;
          DynamicSymbols symbols(info->dlpi_addr, reinterpret_cast<const ElfW(Dyn)*>(
                                                      info->dlpi_addr + segment.p_vaddr));
          if (!symbols.DefinesThreadLocal(self.symbol.c_str())) continue;
          self.library = info->dlpi_name;
          return 1;
        }
        return 0;
      },
      &search);
  return search.library;
}

std::optional<SymbolInfo> Describe(const void* address) {
  Range range = {reinterpret_cast<uintptr_t>(address)};
  if (!dl_iterate_phdr(FindSegment, &range)) return std::nullopt;
  Dl_info info;
  void* found = nullptr;
  bool is_named =
      dladdr1(address, &info, &found, RTLD_DL_SYMENT) && found && info.dli_saddr == address;
  uint64_t size = is_named ? static_cast<const ElfW(Sym)*>(found)->st_size : 0;
  // A function may be an implementation that was chosen, which has no name.
  return SymbolInfo{range.is_code, size, range.is_read_only};
}

}  // namespace object_loader
