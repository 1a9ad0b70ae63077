// SPDX-License-Identifier: Apache-2.0
//
// Formats: gABI chapter 5, GNU's hash table, and "ELF Symbol Versioning".
#include "os/dynamic_library.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <set>
#include <vector>

namespace object_loader {

namespace {

constexpr uint16_t kHidden = 0x8000;
constexpr uint16_t kIndex = 0x7fff;

// The tables that the dynamic linker itself reads symbols from.
class SymbolTable {
 public:
  explicit SymbolTable(const link_map& map) : base_(map.l_addr) {
    for (const ElfW(Dyn)* entry = map.l_ld; entry->d_tag != DT_NULL; ++entry) {
      switch (entry->d_tag) {
        case DT_SYMTAB:
          symbols_ = At<ElfW(Sym)>(entry);
          break;
        case DT_STRTAB:
          strings_ = At<char>(entry);
          break;
        case DT_VERSYM:
          versions_ = At<uint16_t>(entry);
          break;
        case DT_VERDEF:
          definitions_ = At<ElfW(Verdef)>(entry);
          break;
        case DT_HASH:
          hash_ = At<uint32_t>(entry);
          break;
        case DT_GNU_HASH:
          gnu_hash_ = At<uint32_t>(entry);
          break;
      }
    }
  }

  bool HasVersion(const std::string& version) const {
    if (!strings_ || !definitions_) return false;
    for (const char* name : VersionNames()) {
      if (name && version == name) return true;
    }
    return false;
  }

  // Calls `visit` with each defined symbol: name, version, hidden.
  template <typename Visit>
  void ForEachVersioned(Visit visit) const {
    if (!symbols_ || !strings_ || !versions_ || !definitions_) return;
    std::vector<const char*> names = VersionNames();
    uint32_t count = Count();
    for (uint32_t i = 1; i < count; ++i) {
      if (symbols_[i].st_shndx == SHN_UNDEF) continue;
      uint16_t version = versions_[i] & kIndex;
      const char* name = version < names.size() && version > 1 ? names[version] : nullptr;
      visit(strings_ + symbols_[i].st_name, name ? name : "", (versions_[i] & kHidden) != 0);
    }
  }

 private:
  // The dynamic linker has added the base already, where it can write the table.
  template <typename T>
  const T* At(const ElfW(Dyn) * entry) const {
    uint64_t address = entry->d_un.d_ptr;
    return reinterpret_cast<const T*>(address < base_ ? address + base_ : address);
  }

  std::vector<const char*> VersionNames() const {
    std::vector<const char*> names;
    for (const char* at = reinterpret_cast<const char*>(definitions_);;) {
      const auto* definition = reinterpret_cast<const ElfW(Verdef)*>(at);
      const auto* name = reinterpret_cast<const ElfW(Verdaux)*>(at + definition->vd_aux);
      size_t index = definition->vd_ndx & kIndex;
      if (names.size() <= index) names.resize(index + 1);
      names[index] = strings_ + name->vda_name;
      if (definition->vd_next == 0) return names;
      at += definition->vd_next;
    }
  }

  uint32_t Count() const {
    if (hash_) return hash_[1];
    if (!gnu_hash_) return 0;
    uint32_t buckets = gnu_hash_[0];
    uint32_t first = gnu_hash_[1];
    uint32_t filter = gnu_hash_[2];
    const uint32_t* bucket = gnu_hash_ + 4 + filter * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
    const uint32_t* chain = bucket + buckets;
    uint32_t last = 0;
    for (uint32_t i = 0; i < buckets; ++i) last = std::max(last, bucket[i]);
    if (last < first) return first;
    while ((chain[last - first] & 1) == 0) ++last;
    return last + 1;
  }

  const uint64_t base_;
  const ElfW(Sym) * symbols_ = nullptr;
  const char* strings_ = nullptr;
  const uint16_t* versions_ = nullptr;
  const ElfW(Verdef) * definitions_ = nullptr;
  const uint32_t* hash_ = nullptr;
  const uint32_t* gnu_hash_ = nullptr;
};

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

}  // namespace

DynamicLibrary DynamicLibrary::Open(const std::string& path, std::string& reason) {
  DynamicLibrary library;
  library.handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library.handle_) {
    const char* message = dlerror();
    reason = message ? message : "the dynamic linker does not say why";
  } else {
    library.ReadVersions();
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
  SymbolTable(*map).ForEachVersioned([&](const char* name, const char* version, bool hidden) {
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
  return OwnerOf(*address) && !Owns(*address) ? std::nullopt : address;
}

bool DynamicLibrary::Owns(const void* address) const { return OwnerOf(address) == MapOf(handle_); }

bool DefinesVersion(const void* address, const std::string& version) {
  const link_map* owner = OwnerOf(address);
  return !owner || SymbolTable(*owner).HasVersion(version);
}

}  // namespace object_loader
