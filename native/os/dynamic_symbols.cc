// SPDX-License-Identifier: Apache-2.0
#include "os/dynamic_symbols.h"

#include <cstring>

namespace object_loader {

const ElfW(Sym) * DynamicSymbols::Find(const char* name) const {
  if (!symbols_ || !strings_ || !gnu_hash_) return nullptr;
  uint32_t hash = 5381;
  for (const char* at = name; *at; ++at) hash = hash * 33 + static_cast<unsigned char>(*at);
  uint32_t buckets = gnu_hash_[0];
  uint32_t first = gnu_hash_[1];
  uint32_t filter_size = gnu_hash_[2];
  uint32_t shift = gnu_hash_[3];
  const auto* filter = reinterpret_cast<const uint64_t*>(gnu_hash_ + 4);
  uint64_t word = filter[(hash / 64) % filter_size];
  if (((word >> (hash % 64)) & (word >> ((hash >> shift) % 64)) & 1) == 0 || buckets == 0) {
    return nullptr;
  }
  const auto* bucket = reinterpret_cast<const uint32_t*>(filter + filter_size);
  const uint32_t* chain = bucket + buckets;
  uint32_t i = bucket[hash % buckets];
  if (i < first) return nullptr;
  for (;; ++i) {
    uint32_t entry = chain[i - first];
    if ((entry | 1) == (hash | 1) && symbols_[i].st_shndx != SHN_UNDEF &&
        std::strcmp(strings_ + symbols_[i].st_name, name) == 0) {
      return &symbols_[i];
    }
    if (entry & 1) return nullptr;
  }
}

}  // namespace object_loader
