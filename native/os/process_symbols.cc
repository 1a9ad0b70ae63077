// SPDX-License-Identifier: Apache-2.0
#include "os/process_symbols.h"

#include <dlfcn.h>
#include <link.h>

#include <map>
#include <mutex>
#include <utility>

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

// How many libraries were ever opened.
uint64_t LibrariesOpened() {
  uint64_t opened = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        *static_cast<uint64_t*>(result) = info->dlpi_adds;
        return 1;
      },
      &opened);
  return opened;
}

struct Range {
  uintptr_t address;
  bool is_read_only = false;
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
  uint64_t opened = LibrariesOpened();
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (opened != libraries_) global_.clear();
    libraries_ = opened;
    for (size_t i = 0; i < names.size(); ++i) {
      auto known = global_.find(names[i]);
      if (known != global_.end()) {
        addresses[i] = known->second;
      } else {
        unknown.push_back(i);
      }
    }
  }
  for (size_t i : unknown) {
    addresses[i] = FindInScope(RTLD_DEFAULT, *names[i]);
    if (addresses[i]) Pin(addresses[i]);
    std::lock_guard<Mutex> lock(mutex_);
    global_[names[i]] = addresses[i];
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

bool IsInLibrary(const void* address) {
  Dl_info info;
  return dladdr(address, &info) != 0;
}

std::optional<SymbolInfo> Describe(const void* address) {
  Dl_info info;
  void* found = nullptr;
  if (!dladdr1(address, &info, &found, RTLD_DL_SYMENT) || !found || info.dli_saddr != address) {
    return std::nullopt;
  }
  const auto* symbol = static_cast<const ElfW(Sym)*>(found);
  unsigned type = ELF64_ST_TYPE(symbol->st_info);
  Range range = {reinterpret_cast<uintptr_t>(address), false};
  dl_iterate_phdr(FindSegment, &range);
  return SymbolInfo{type == STT_FUNC || type == STT_GNU_IFUNC, symbol->st_size, range.is_read_only};
}

}  // namespace object_loader
