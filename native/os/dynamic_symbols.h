// SPDX-License-Identifier: Apache-2.0
//
// DynamicSymbols: the symbols of a library that the dynamic linker has opened, read from the tables
// that it uses itself.
//
// Lifetime: valid for as long as the library is open. Immutable.
// Formats: gABI chapter 5, GNU's hash table, and "ELF Symbol Versioning".
#ifndef OBJECT_LOADER_OS_DYNAMIC_SYMBOLS_H_
#define OBJECT_LOADER_OS_DYNAMIC_SYMBOLS_H_

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace object_loader {

// The tables that the dynamic linker itself reads symbols from.
class DynamicSymbols {
 public:
  DynamicSymbols(uint64_t base, const ElfW(Dyn) * dynamic) : base_(base) {
    for (const ElfW(Dyn)* entry = dynamic; entry->d_tag != DT_NULL; ++entry) {
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
      uint16_t version = versions_[i] & kVersionIndex;
      const char* name = version < names.size() && version > 1 ? names[version] : nullptr;
      visit(strings_ + symbols_[i].st_name, name ? name : "", (versions_[i] & kHiddenVersion) != 0);
    }
  }

  // Whether it defines the symbol, in some version.
  bool Defines(const char* name) const { return Find(name) != nullptr; }
  bool DefinesThreadLocal(const char* name) const {
    const ElfW(Sym)* symbol = Find(name);
    return symbol && ELF64_ST_TYPE(symbol->st_info) == STT_TLS;
  }

 private:
  static constexpr uint16_t kHiddenVersion = 0x8000;
  static constexpr uint16_t kVersionIndex = 0x7fff;

  // The dynamic linker has added the base already, where it can write the table.
  template <typename T>
  const T* At(const ElfW(Dyn) * entry) const {
    uint64_t address = entry->d_un.d_ptr;
    return reinterpret_cast<const T*>(address < base_ ? address + base_ : address);
  }

  const ElfW(Sym) * Find(const char* name) const;

  std::vector<const char*> VersionNames() const {
    std::vector<const char*> names;
    for (const char* at = reinterpret_cast<const char*>(definitions_);;) {
      const auto* definition = reinterpret_cast<const ElfW(Verdef)*>(at);
      const auto* name = reinterpret_cast<const ElfW(Verdaux)*>(at + definition->vd_aux);
      size_t index = definition->vd_ndx & kVersionIndex;
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

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_DYNAMIC_SYMBOLS_H_
