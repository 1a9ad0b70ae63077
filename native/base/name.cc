// SPDX-License-Identifier: Apache-2.0
#include "base/name.h"

#include <llvm/Support/xxhash.h>

#include <array>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/fork_lock.h"

namespace object_loader {

class NameTable {
 public:
  // Never destroyed: loaded code, and what it is known by, may outlive everything else.
  static NameTable& OfProcess() {
    static auto* table = new NameTable;
    return *table;
  }

  Name::Entry* Find(NameRef name) {
    llvm::StringRef text = *name;
    uint32_t hash = name.hash();
    uint32_t number = ThisThreadsPart();
    Part& part = parts_[number];
    std::lock_guard<Mutex> lock(part.mutex);
    for (Name::Entry* entry = part.FirstOf(hash); entry; entry = entry->next) {
      if (entry->hash != hash || entry->text() != text) continue;
      entry->users.fetch_add(1, std::memory_order_relaxed);
      return entry;
    }
    if (part.count == part.chains.size()) part.Grow();
    void* memory = ::operator new(sizeof(Name::Entry) + text.size() + 1);
    auto* entry = new (memory)
        Name::Entry{{1}, hash, static_cast<uint32_t>(text.size()), number, part.FirstOf(hash)};
    char* copy = static_cast<char*>(memory) + sizeof(Name::Entry);
    std::memcpy(copy, text.data(), text.size());
    copy[text.size()] = '\0';
    part.FirstOf(hash) = entry;
    ++part.count;
    return entry;
  }

  void Release(Name::Entry* entry) {
    Part& part = parts_[entry->part];
    {
      std::lock_guard<Mutex> lock(part.mutex);
      if (entry->users.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
      Name::Entry** link = &part.FirstOf(entry->hash);
      while (*link != entry) link = &(*link)->next;
      *link = entry->next;
      --part.count;
    }
    entry->~Entry();
    ::operator delete(entry);
  }

 private:
  // Names in chains, at most one to a chain on average.
  struct alignas(64) Part {
    Mutex mutex;
    std::vector<Name::Entry*> chains = std::vector<Name::Entry*>(16);  // a power of two
    size_t count = 0;

    Name::Entry*& FirstOf(uint32_t hash) { return chains[hash & (chains.size() - 1)]; }
    void Grow() {
      std::vector<Name::Entry*> before(chains.size() * 2);
      before.swap(chains);
      for (Name::Entry* entry : before) {
        while (entry) {
          Name::Entry* next = std::exchange(entry->next, FirstOf(entry->hash));
          FirstOf(entry->hash) = entry;
          entry = next;
        }
      }
    }
  };

  // Threads are divided among them in turn.
  static uint32_t ThisThreadsPart() {
    static std::atomic<uint32_t> threads{0};
    thread_local uint32_t number = threads.fetch_add(1, std::memory_order_relaxed);
    return number % kParts;
  }

  static constexpr uint32_t kParts = 16;
  std::array<Part, kParts> parts_;
};

NameRef::NameRef(llvm::StringRef text)
    : text_(text), hash_(static_cast<uint32_t>(llvm::xxh3_64bits(text))) {}

Name::Name(NameRef text) : entry_(NameTable::OfProcess().Find(text)) {}

void Name::ReleaseLast() { NameTable::OfProcess().Release(entry_); }

}  // namespace object_loader
