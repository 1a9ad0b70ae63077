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

// RTLD_DEFAULT is more than that: the scope of whoever asks, with the libraries that the extension
// alone depends on (a shared LLVM, and what that needs).
void* GlobalScope() {
  static void* scope = dlopen(nullptr, RTLD_LAZY);
  return scope;
}

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

// The libraries of the process, in the order in which they were opened.
struct Libraries {
  std::vector<DynamicSymbols> opened;
  uint64_t as_of = 0;    // of how many that were ever opened
  uint64_t known_as_of;  // nothing is wanted if there are no more than these

  static int Visit(dl_phdr_info* info, size_t, void* result) {
    auto& self = *static_cast<Libraries*>(result);
    self.as_of = info->dlpi_adds;
    if (self.as_of == self.known_as_of) return 1;
    static constexpr ElfW(Dyn) kNothing = {};
    const ElfW(Dyn)* dynamic = &kNothing;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr) & segment = info->dlpi_phdr[i];
      if (segment.p_type != PT_DYNAMIC) continue;
      dynamic = reinterpret_cast<const ElfW(Dyn)*>(info->dlpi_addr + segment.p_vaddr);
    }
    self.opened.emplace_back(info->dlpi_addr, dynamic);
    return 0;
  }

  // Whether any library defines the name that was opened after so many.
  bool HasSince(uint64_t before, const char* name) const {
    uint64_t since = std::min<uint64_t>(as_of - before, opened.size());
    if (since == 0) return false;
    uint32_t hash = DynamicSymbols::Hash(name);
    return std::any_of(opened.end() - static_cast<std::ptrdiff_t>(since), opened.end(),
                       [&](const DynamicSymbols& library) { return library.Defines(name, hash); });
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

std::vector<void*> ProcessSymbols::Find(llvm::ArrayRef<NameRef> names) {
  std::vector<void*> addresses(names.size());
  std::vector<size_t> unknown;
  {
    std::lock_guard<Mutex> lock(mutex_);
    for (size_t i = 0; i < names.size(); ++i) {
      auto known = found_.find_as(names[i]);
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

void* ProcessSymbols::FindNew(NameRef name) {
  std::string symbol = name.str();
  if (void* ours = ExitFunction(symbol)) return ours;
  auto replacement = Replacements().find(symbol);
  if (replacement != Replacements().end()) {
    std::lock_guard<Mutex> lock(mutex_);
    return found_[Name(name)] = replacement->second;
  }
  void* address = FindInScope(GlobalScope(), symbol);
  if (address == nullptr && tvm_ffi_) {
    address = tvm_ffi_.FindWithDependencies(symbol).value_or(nullptr);
  }
  for (const char* version : first_versions_) {
    if (address == nullptr) address = dlvsym(GlobalScope(), symbol.c_str(), version);
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
    found_[Name(name)] = address;
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

std::vector<void*> ProcessSymbols::FindGlobal(llvm::ArrayRef<NameRef> names) {
  std::vector<void*> addresses(names.size());
  if (names.empty()) return addresses;
  std::vector<size_t> absent;  // when they were looked up
  std::vector<size_t> unknown;
  Libraries libraries = {};
  libraries.known_as_of = ~uint64_t{0};
  {
    std::lock_guard<Mutex> lock(mutex_);
    for (size_t i = 0; i < names.size(); ++i) {
      auto known = global_.find_as(names[i]);
      if (known == global_.end()) {
        unknown.push_back(i);
      } else if (known->second.address) {
        addresses[i] = known->second.address;  // it stays, with its library
      } else {
        absent.push_back(i);
        libraries.known_as_of = std::min(libraries.known_as_of, known->second.as_of);
      }
    }
    dl_iterate_phdr(Libraries::Visit, &libraries);
    for (size_t i : absent) {
      Global& known = global_.find_as(names[i])->second;
      if (libraries.HasSince(known.as_of, (*names[i]).data())) {
        unknown.push_back(i);
      } else {
        known.as_of = libraries.as_of;
      }
    }
  }
  for (size_t i : unknown) {
    addresses[i] = FindInScope(GlobalScope(), *names[i]);
    if (addresses[i]) Pin(addresses[i]);
    std::lock_guard<Mutex> lock(mutex_);
    global_[Name(names[i])] = {addresses[i], libraries.as_of};
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

std::optional<ThreadLocalOwner> FindThreadLocal(const std::string& symbol) {
  struct Search {
    const std::string& symbol;
    std::optional<ThreadLocalOwner> library;
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
          auto version = symbols.FindThreadLocal(self.symbol);
          if (!version) continue;
          self.library = ThreadLocalOwner{info->dlpi_name, *version};
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

std::string LibraryAt(const void* address) {
  Dl_info info;
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

}  // namespace object_loader
