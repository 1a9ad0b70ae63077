// SPDX-License-Identifier: Apache-2.0
#include "os/dynamic_library.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "os/dynamic_symbols.h"

namespace object_loader {

namespace {

link_map* MapOf(void* handle) {
  link_map* map = nullptr;
  return dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 ? map : nullptr;
}

// The library that the address lies in, or null.
link_map* OwnerOf(const void* address) {
  Dl_info info;
  void* owner = nullptr;
  return dladdr1(address, &info, &owner, RTLD_DL_LINKMAP) ? static_cast<link_map*>(owner) : nullptr;
}

bool IsForThreads(llvm::StringRef symbol) {
  return symbol == "pthread_create" || symbol == "pthread_key_create" || symbol == "thrd_create" ||
         symbol == "tss_create" || symbol.starts_with("_ZNSt6thread15_M_start_thread");
}

// Whether it is the library of this handle itself that stays.
bool KeepThreadedFrom(void* handle, std::set<std::string>& seen) {
  const link_map* map = MapOf(handle);
  if (!map || !seen.insert(map->l_name).second) return false;
  DynamicSymbols symbols(map->l_addr, map->l_ld);
  constexpr int kOpened = RTLD_LAZY | RTLD_NOLOAD;
  bool stays = symbols.Imports(IsForThreads);
  if (stays) {
    if (void* kept = dlopen(map->l_name, kOpened | RTLD_NODELETE)) dlclose(kept);
  }
  for (const std::string& name : symbols.Needed()) {
    if (void* needed = dlopen(name.c_str(), kOpened)) {
      KeepThreadedFrom(needed, seen);
      dlclose(needed);
    }
  }
  return stays;
}

}  // namespace

DynamicLibrary DynamicLibrary::Open(const std::string& path, std::string& reason) {
  DynamicLibrary library;
  library.handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library.handle_) {
    const char* message = dlerror();
    reason = message ? message : "the dynamic linker does not say why";
  } else {
    library.ReadVersions();
    library.FindRange();
  }
  return library;
}

DynamicLibrary DynamicLibrary::Opened(const char* name) {
  DynamicLibrary library;
  library.handle_ = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
  return library;
}

DynamicLibrary& DynamicLibrary::operator=(DynamicLibrary&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(begin_, other.begin_);
  std::swap(end_, other.end_);
  std::swap(default_versions_, other.default_versions_);
  return *this;
}

DynamicLibrary::~DynamicLibrary() {
  if (handle_) dlclose(handle_);
}

uint64_t DynamicLibrary::base() const {
  const link_map* map = MapOf(handle_);
  return map ? map->l_addr : 0;
}

void DynamicLibrary::ReadVersions() {
  const link_map* map = MapOf(handle_);
  if (!map) return;
  std::map<std::string, std::string> defaults;
  std::set<std::string> several;  // or hidden
  DynamicSymbols(map->l_addr, map->l_ld)
      .ForEachVersioned([&](const char* name, const char* version, bool hidden) {
        if (hidden) {
          several.insert(name);
        } else if (!defaults.try_emplace(name, version).second) {
          several.insert(name);
        }
      });
  for (const std::string& name : several) {
    auto found = defaults.find(name);
    default_versions_[name] = found == defaults.end() ? "" : found->second;
  }
}

// The dynamic linker's own answer, for one address, takes a walk over all the library's symbols.
void DynamicLibrary::FindRange() {
  const link_map* map = MapOf(handle_);
  if (!map) return;
  struct Wanted {
    const link_map* map;
    uint64_t begin, end;
  } wanted = {map, 0, 0};
  auto visit = [](dl_phdr_info* info, size_t, void* data) {
    auto& [map, begin, end] = *static_cast<Wanted*>(data);
    if (info->dlpi_addr != map->l_addr || std::strcmp(info->dlpi_name, map->l_name) != 0) return 0;
    begin = UINT64_MAX;
    for (size_t i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr) & segment = info->dlpi_phdr[i];
      if (segment.p_type != PT_LOAD) continue;
      begin = std::min<uint64_t>(begin, map->l_addr + segment.p_vaddr);
      end = std::max<uint64_t>(end, map->l_addr + segment.p_vaddr + segment.p_memsz);
    }
    return 1;
  };
  dl_iterate_phdr(visit, &wanted);
  begin_ = wanted.begin;
  end_ = wanted.end;
}

bool DynamicLibrary::KeepThreaded() const {
  std::set<std::string> seen;
  return KeepThreadedFrom(handle_, seen);
}

std::optional<void*> DynamicLibrary::FindWithDependencies(const std::string& symbol) const {
  size_t at = symbol.find('@');
  dlerror();
  void* address;
  if (at == std::string::npos) {
    address = dlsym(handle_, symbol.c_str());
  } else {
    size_t version = symbol.find_first_not_of('@', at);
    if (version == std::string::npos) return std::nullopt;
    address = dlvsym(handle_, symbol.substr(0, at).c_str(), symbol.c_str() + version);
  }
  if (!address && dlerror()) return std::nullopt;
  if (at != std::string::npos &&
      !DefinesVersion(address, symbol.substr(symbol.find_first_not_of('@', at)))) {
    return std::nullopt;
  }
  // Without a version, the dynamic linker also finds what is hidden.
  auto known = default_versions_.find(symbol);
  if (known != default_versions_.end() && known->second.empty() && Owns(address)) {
    return std::nullopt;
  }
  return address;
}

std::optional<void*> DynamicLibrary::Find(const std::string& symbol) const {
  std::string wanted = symbol;
  auto version = default_versions_.find(symbol);
  if (version != default_versions_.end()) {
    if (version->second.empty()) return std::nullopt;
    wanted += "@" + version->second;
  }
  std::optional<void*> address = FindWithDependencies(wanted);
  if (!address) return std::nullopt;
  // An address in no library at all is the value of an absolute symbol, or a thread's variable.
  return !Owns(*address) && OwnerOf(*address) ? std::nullopt : address;
}

std::optional<std::string> DynamicLibrary::FindThreadLocal(const std::string& symbol) const {
  const link_map* map = MapOf(handle_);
  if (!map) return std::nullopt;
  return DynamicSymbols(map->l_addr, map->l_ld).FindThreadLocal(symbol);
}

bool DynamicLibrary::Owns(const void* address) const {
  auto at = reinterpret_cast<uint64_t>(address);
  return at >= begin_ && at < end_;
}

bool DefinesVersion(const void* address, const std::string& version) {
  const link_map* owner = OwnerOf(address);
  return !owner || DynamicSymbols(owner->l_addr, owner->l_ld).HasVersion(version);
}

}  // namespace object_loader
