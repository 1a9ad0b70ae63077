// SPDX-License-Identifier: Apache-2.0
//
// SymbolTable: what the objects of one dylib define.
//
// Concurrency: every method may be called from any thread. The symbols of a load are seen by the
// thread whose turn it is (see Turns) at once, and by others when they are published.
#ifndef OBJECT_LOADER_SESSION_SYMBOL_TABLE_H_
#define OBJECT_LOADER_SESSION_SYMBOL_TABLE_H_

#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/DenseSet.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "base/name.h"
#include "link/resolution.h"
#include "link/tls_module.h"
#include "session/turns.h"

namespace object_loader {

// What a load adds to the table.
struct Definition {
  explicit Definition(const Global& global)
      : name(global.name),
        weak(global.weak),
        exported(!global.is_hidden),
        is_thread_local(global.is_thread_local),
        is_function(global.is_function) {}

  NameRef name;  // the load's
  bool weak;
  bool exported;  // visible outside the dylib; hidden otherwise
  bool is_thread_local;
  bool is_function;
};

class SymbolTable {
 public:
  struct Symbol {
    uint64_t value;  // an address; of a thread-local variable its offset
    bool weak;
    bool is_thread_local;
    bool is_function;
    bool is_initializing;                         // its load has not finished
    std::shared_ptr<const TlsModule> tls_module;  // of a thread-local variable

    // The address; of a thread-local variable, of that of the calling thread.
    void* Address() const;
  };

  explicit SymbolTable(const Turns& turns) : turns_(turns) {}

  // Of one load: its definitions, with their values, and the groups that it has. For use by the
  // thread that has the turn. Throws std::bad_alloc.
  void Add(const std::vector<Definition>& definitions, const std::vector<uint64_t>& values,
           const std::shared_ptr<const TlsModule>& tls_module, const std::vector<NameRef>& groups);
  void Remove(const std::vector<Definition>& definitions, const std::vector<NameRef>& groups);
  // Lets other threads see them.
  void Publish(const std::vector<Definition>& definitions);
  // What a thread that a fork has left behind was in the midst of adding.
  void RemoveInitializing();
  void Clear();

  // Among all symbols. For use by the thread that has the turn.
  std::optional<Symbol> FindOwn(NameRef name) const;
  bool HasOwn(NameRef name) const;
  bool HasGroup(NameRef signature) const;
  // Among those that others may see, and this thread.
  std::optional<Symbol> FindExported(NameRef name) const;
  // Whether there is such a symbol, seen or not.
  bool Has(NameRef name) const;
  // What has an address.
  struct Named {
    Name name;
    uint64_t address;
    bool is_function;
    bool exported;
    bool weak;
  };
  // The first, in the order of names, of what lies at the address.
  std::optional<Named> NameAt(uint64_t address) const;
  // All that others may see, and this thread, by address and name.
  std::vector<Named> ByAddress() const;
  // The names of the exported TVM-FFI functions, sorted.
  std::vector<std::string> FunctionNames() const;
  uint64_t CountFunctions() const;
  // Of all symbols, seen or not.
  uint64_t Count() const;
  // Sets the pointer that is the symbol's variable to null, if there is one.
  void ClearPointer(NameRef name) const;

  // Notes that a symbol's address is given to somebody, who may use it after a failed load.
  void NoteUse(const Symbol& symbol) const;
  // How many such uses there were of symbols whose load had not finished.
  uint64_t early_uses() const { return early_uses_; }

 private:
  // In eight bytes, as there are dozens for each load: addresses of a process have 56 bits at most.
  struct Entry {
    uint64_t place : 56;  // the address
    uint64_t weak : 1;
    uint64_t exported : 1;
    uint64_t initializing : 1;     // seen only by the thread whose turn it is
    uint64_t is_thread_local : 1;  // the place is an offset; see tls_modules_
    uint64_t is_wide : 1;          // a number that is no address; see wide_values_
    uint64_t is_function : 1;
    uint64_t names_group : 1;  // its name is the signature of a group that is loaded
  };
  Symbol Read(NameRef name, const Entry& entry) const;
  const std::vector<Named>& SortedByAddress() const;
  void Erase(NameRef name);
  bool IsSeen(const Entry& entry) const {
    return entry.exported && (!entry.initializing || turns_.IsMine());
  }

  const Turns& turns_;
  mutable Mutex mutex_;
  llvm::SmallDenseMap<Name, Entry, 4> entries_;
  llvm::DenseMap<Name, std::shared_ptr<const TlsModule>> tls_modules_;
  llvm::DenseMap<Name, uint64_t> wide_values_;
  // Groups whose signature is the name of no symbol, as it mostly is.
  llvm::DenseSet<Name> groups_;
  // Made when somebody asks; empty where it is not up to date.
  mutable std::vector<Named> by_address_;
  mutable std::atomic<uint64_t> early_uses_{0};
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_SYMBOL_TABLE_H_
