// SPDX-License-Identifier: Apache-2.0
#include "os/dynamic_symbols.h"

#include <cstring>

namespace object_loader {

uint32_t DynamicSymbols::Find(const char* name, uint32_t hash,
                              llvm::function_ref<bool(uint32_t)> accept) const {
  if (!symbols_ || !strings_ || !gnu_hash_) return 0;
  uint32_t buckets = gnu_hash_[0];
  uint32_t first = gnu_hash_[1];
  uint32_t filter_size = gnu_hash_[2];
  uint32_t shift = gnu_hash_[3];
  const auto* filter = reinterpret_cast<const uint64_t*>(gnu_hash_ + 4);
  uint64_t word = filter[(hash / 64) % filter_size];
  if (((word >> (hash % 64)) & (word >> ((hash >> shift) % 64)) & 1) == 0 || buckets == 0) {
    return 0;
  }
  const auto* bucket = reinterpret_cast<const uint32_t*>(filter + filter_size);
  const uint32_t* chain = bucket + buckets;
  uint32_t i = bucket[hash % buckets];
  if (i < first) return 0;
  for (;; ++i) {
    uint32_t entry = chain[i - first];
    if ((entry | 1) == (hash | 1) && symbols_[i].st_shndx != SHN_UNDEF &&
        std::strcmp(strings_ + symbols_[i].st_name, name) == 0 && accept(i)) {
      return i;
    }
    if (entry & 1) return 0;
  }
}

const char* DynamicSymbols::FunctionAt(uint64_t address) const {
  if (!symbols_ || !strings_) return nullptr;
  uint32_t count = Count();
  for (uint32_t i = 1; i < count; ++i) {
    const ElfW(Sym) & symbol = symbols_[i];
    if (base_ + symbol.st_value == address && symbol.st_shndx != SHN_UNDEF &&
        ELF64_ST_TYPE(symbol.st_info) == STT_FUNC) {
      return strings_ + symbol.st_name;
    }
  }
  return nullptr;
}

}  // namespace object_loader
