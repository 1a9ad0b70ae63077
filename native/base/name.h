// SPDX-License-Identifier: Apache-2.0
//
// Names of symbols: NameRef, a text with its hash, by which tables are searched; and Name, the key
// in tables that last, which shares its text with the others of that name.
//
// Lifetime: a NameRef refers to a text of somebody else's. The text of a Name goes with the last
// Name that shares it. Concurrency: every function may be called from any thread; a Name itself is
// for one thread at a time. Threads that link at the same time share texts each with itself: what
// they would have to tell each other costs more than a second copy.
#ifndef OBJECT_LOADER_BASE_NAME_H_
#define OBJECT_LOADER_BASE_NAME_H_

#include <llvm/ADT/DenseMapInfo.h>
#include <llvm/ADT/StringRef.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

namespace object_loader {

class Name;

class NameRef {
 public:
  NameRef() = default;
  explicit NameRef(llvm::StringRef text);
  NameRef(const Name& name);  // NOLINT: a Name is one that lasts
  NameRef(llvm::StringRef text, uint32_t hash) : text_(text), hash_(hash) {}

  llvm::StringRef operator*() const { return text_; }
  uint32_t hash() const { return hash_; }
  std::string str() const { return text_.str(); }

  friend bool operator==(NameRef a, NameRef b) { return a.hash_ == b.hash_ && a.text_ == b.text_; }

 private:
  llvm::StringRef text_;
  uint32_t hash_ = 0;
};

class Name {
 public:
  Name() = default;  // no name
  // Throws std::bad_alloc.
  explicit Name(NameRef text);
  Name(const Name& other) : entry_(other.entry_) {
    if (IsEntry()) entry_->users.fetch_add(1, std::memory_order_relaxed);
  }
  Name(Name&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}
  Name& operator=(Name other) noexcept {
    std::swap(entry_, other.entry_);
    return *this;
  }
  ~Name() {
    if (IsEntry()) Release();
  }

  // A null character follows it.
  llvm::StringRef operator*() const { return entry_->text(); }
  uint32_t hash() const { return entry_->hash; }

 private:
  friend struct llvm::DenseMapInfo<Name>;
  friend class NameTable;

  // The text follows it.
  struct Entry {
    std::atomic<uint32_t> users;
    uint32_t hash;
    uint32_t length;
    uint32_t part;  // of the table that it is in
    Entry* next;    // there

    llvm::StringRef text() const { return {reinterpret_cast<const char*>(this + 1), length}; }
  };

  explicit Name(Entry* entry) : entry_(entry) {}
  void Release() {
    // The last user lets go of it where nobody can find it meanwhile.
    uint32_t users = entry_->users.load(std::memory_order_relaxed);
    while (users > 1) {
      if (entry_->users.compare_exchange_weak(users, users - 1, std::memory_order_release,
                                              std::memory_order_relaxed)) {
        return;
      }
    }
    ReleaseLast();
  }
  void ReleaseLast();
  // Null and the two keys that LLVM's tables need are none.
  bool IsEntry() const { return reinterpret_cast<uintptr_t>(entry_) - 1 < UINTPTR_MAX - 2; }

  Entry* entry_ = nullptr;
};

inline NameRef::NameRef(const Name& name) : text_(*name), hash_(name.hash()) {}

}  // namespace object_loader

template <>
struct llvm::DenseMapInfo<object_loader::NameRef> {
  using NameRef = object_loader::NameRef;
  static NameRef getEmptyKey() { return Key(UINTPTR_MAX); }
  static NameRef getTombstoneKey() { return Key(UINTPTR_MAX - 1); }
  static unsigned getHashValue(NameRef name) { return name.hash(); }
  static bool isEqual(NameRef a, NameRef b) {
    return (*a).data() == (*b).data() ? (*a).size() == (*b).size()
                                      : IsText(a) && IsText(b) && a == b;
  }

 private:
  static NameRef Key(uintptr_t value) {
    return {llvm::StringRef(reinterpret_cast<const char*>(value), 0), 0};
  }
  static bool IsText(NameRef name) {
    return reinterpret_cast<uintptr_t>((*name).data()) < UINTPTR_MAX - 1;
  }
};

template <>
struct llvm::DenseMapInfo<object_loader::Name> {
  using Name = object_loader::Name;
  using NameRef = object_loader::NameRef;
  static Name getEmptyKey() { return Name(reinterpret_cast<Name::Entry*>(UINTPTR_MAX)); }
  static Name getTombstoneKey() { return Name(reinterpret_cast<Name::Entry*>(UINTPTR_MAX - 1)); }
  static unsigned getHashValue(const Name& name) { return name.hash(); }
  static unsigned getHashValue(NameRef name) { return name.hash(); }
  static bool isEqual(const Name& a, const Name& b) {
    return a.entry_ == b.entry_ || (a.IsEntry() && isEqual(NameRef(a), b));
  }
  static bool isEqual(NameRef text, const Name& name) {
    return name.IsEntry() && text == NameRef(name);
  }
};

#endif  // OBJECT_LOADER_BASE_NAME_H_
