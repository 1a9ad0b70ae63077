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
#include <llvm/ADT/STLFunctionalExtras.h>
#include <llvm/ADT/StringRef.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace object_loader {

// The tables that the dynamic linker itself reads symbols from.
class DynamicSymbols {
 public:
  DynamicSymbols(uint64_t base, const ElfW(Dyn) * dynamic) : base_(base), dynamic_(dynamic) {
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
        case DT_VERNEED:
          needs_ = At<ElfW(Verneed)>(entry);
          break;
        case DT_RELA:
          relocations_[0] = At<ElfW(Rela)>(entry);
          break;
        case DT_RELASZ:
          relocation_bytes_[0] = entry->d_un.d_val;
          break;
        case DT_JMPREL:
          relocations_[1] = At<ElfW(Rela)>(entry);
          break;
        case DT_PLTRELSZ:
          relocation_bytes_[1] = entry->d_un.d_val;
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

  // Whether a symbol that it defines may have the version: its own, or that of a variable of a
  // library's, of which an executable has the copy that counts.
  bool HasVersion(const std::string& version) const {
    if (!strings_) return false;
    if (definitions_) {
      for (const char* name : VersionNames()) {
        if (name && version == name) return true;
      }
    }
    return Needs(version);
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

  // Whether it refers to a symbol of somebody else's that `accept` is true of.
  bool Imports(llvm::function_ref<bool(const char*)> accept) const {
    if (!symbols_ || !strings_) return false;
    // A library that defines nothing has a hash table that does not tell how many there are.
    uint64_t count = Count();
    for (int table = 0; table < 2; ++table) {
      uint64_t relocations = relocation_bytes_[table] / sizeof(ElfW(Rela));
      for (uint64_t i = 0; relocations_[table] && i < relocations; ++i) {
        count = std::max(count, ELF64_R_SYM(relocations_[table][i].r_info) + 1);
      }
    }
    for (uint64_t i = 1; i < count; ++i) {
      if (symbols_[i].st_shndx == SHN_UNDEF && accept(strings_ + symbols_[i].st_name)) return true;
    }
    return false;
  }

  // The names of the libraries that it needs.
  std::vector<std::string> Needed() const {
    std::vector<std::string> names;
    for (const ElfW(Dyn)* entry = dynamic_; strings_ && entry->d_tag != DT_NULL; ++entry) {
      if (entry->d_tag == DT_NEEDED) names.emplace_back(strings_ + entry->d_un.d_val);
    }
    return names;
  }

  // The name of a function that begins at the address; null where none does.
  const char* FunctionAt(uint64_t address) const;

  // Whether it defines the symbol, in some version.
  bool Defines(const char* name, uint32_t hash) const {
    return Find(name, hash, [](uint32_t) { return true; }) != 0;
  }
  // What GNU's hash table knows a name by.
  static uint32_t Hash(const char* name) {
    uint32_t hash = 5381;
    for (const char* at = name; *at; ++at) hash = hash * 33 + static_cast<unsigned char>(*at);
    return hash;
  }

  // The version of a thread-local variable, "" where it has none; nothing where there is no such
  // variable. `symbol` is its name, for the default version, or "name@VERSION".
  std::optional<std::string> FindThreadLocal(llvm::StringRef symbol) const {
    auto [name, wanted] = symbol.split('@');
    wanted = wanted.ltrim('@');
    std::optional<std::string> found;
    std::string text = name.str();
    Find(text.c_str(), Hash(text.c_str()), [&](uint32_t i) {
      if (ELF64_ST_TYPE(symbols_[i].st_info) != STT_TLS) return false;
      bool is_default = !versions_ || (versions_[i] & kHiddenVersion) == 0;
      std::string version = VersionOf(i);
      if (wanted.empty() ? !is_default : wanted != version) return false;
      found = version;
      return true;
    });
    return found;
  }

 private:
  bool Needs(const std::string& version) const {
    const char* library = reinterpret_cast<const char*>(needs_);
    while (library) {
      const auto* need = reinterpret_cast<const ElfW(Verneed)*>(library);
      const char* of_it = library + need->vn_aux;
      for (int i = 0; i < need->vn_cnt; ++i) {
        const auto* one = reinterpret_cast<const ElfW(Vernaux)*>(of_it);
        if (version == strings_ + one->vna_name) return true;
        of_it += one->vna_next;
      }
      library = need->vn_next ? library + need->vn_next : nullptr;
    }
    return false;
  }

  static constexpr uint16_t kHiddenVersion = 0x8000;
  static constexpr uint16_t kVersionIndex = 0x7fff;

  // The dynamic linker has added the base already, where it can write the table.
  template <typename T>
  const T* At(const ElfW(Dyn) * entry) const {
    uint64_t address = entry->d_un.d_ptr;
    return reinterpret_cast<const T*>(address < base_ ? address + base_ : address);
  }

  // The first definition of the name whose number is accepted; 0 where there is none.
  uint32_t Find(const char* name, uint32_t hash, llvm::function_ref<bool(uint32_t)> accept) const;

  std::string VersionOf(uint32_t symbol) const {
    if (!versions_ || !definitions_) return "";
    uint16_t version = versions_[symbol] & kVersionIndex;
    std::vector<const char*> names = VersionNames();
    const char* name = version < names.size() && version > 1 ? names[version] : nullptr;
    return name ? name : "";
  }

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
  const ElfW(Dyn) * dynamic_;
  const ElfW(Sym) * symbols_ = nullptr;
  const char* strings_ = nullptr;
  const uint16_t* versions_ = nullptr;
  const ElfW(Verdef) * definitions_ = nullptr;
  const ElfW(Verneed) * needs_ = nullptr;
  const ElfW(Rela) * relocations_[2] = {};
  uint64_t relocation_bytes_[2] = {};
  const uint32_t* hash_ = nullptr;
  const uint32_t* gnu_hash_ = nullptr;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_DYNAMIC_SYMBOLS_H_
