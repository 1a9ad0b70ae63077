// SPDX-License-Identifier: Apache-2.0
//
// LoadedCode: what one load brought, its names, and how often it is used.
#ifndef OBJECT_LOADER_SESSION_LOADED_CODE_H_
#define OBJECT_LOADER_SESSION_LOADED_CODE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "link/image.h"
#include "object/source.h"
#include "os/debugger.h"
#include "os/thread_exit.h"
#include "session/scope.h"
#include "session/symbol_table.h"

namespace object_loader {

class Dylib;
struct Trampoline;

// A function or a variable of loaded code.
struct LoadedSymbol {
  Name name;
  uint64_t address = 0;
  uint64_t size = 0;  // bytes; 0 where the object does not say
  Image::Area area = Image::kCode;
  bool is_function = false;
  bool is_local = false;  // static
  bool exported = false;  // visible outside the dylib
  bool weak = false;
  Name object;
};

// What one load brought.
struct LoadedCode : CodeOwner {
  explicit LoadedCode(Dylib& owner) : dylib(owner) {}
  // The code at this address; null where no dylib's code is there. For use by whoever knows that
  // the code is loaded.
  static LoadedCode* At(const void* address);
  std::shared_ptr<void> KeepForThread() override;
  // The code stays in memory for as long as uses of it are left. That costs little: objects that
  // the code made are counted so. AddUses is for whoever knows that the code is loaded.
  void AddUses(uint64_t count) { uses_.fetch_add(count, std::memory_order_relaxed); }
  void EndUses(uint64_t count) {
    uint64_t uses = uses_.load(std::memory_order_relaxed);
    while (__builtin_expect(!(uses & kAbandoned), true)) {
      if (uses_.compare_exchange_weak(uses, uses - count, std::memory_order_release,
                                      std::memory_order_relaxed)) {
        return;
      }
    }
    EndUsesOfAbandoned(count);
  }
  // What is registered for ever is a use for ever.
  void KeepForEver() {
    AddUses(1);
    uses_for_ever_.fetch_add(1, std::memory_order_relaxed);
  }
  bool has_uses() const { return (uses_.load(std::memory_order_acquire) & ~kAbandoned) != 0; }
  // Nobody but its users needs the code any more: the last one unloads it.
  void NoteAbandoned() { uses_.fetch_or(kAbandoned, std::memory_order_relaxed); }
  // The symbol of the function that begins there; empty where it has none. Throws std::bad_alloc.
  std::string FunctionName(uint64_t address) const;
  // What has a name there: the address lies in it. Throws std::bad_alloc.
  std::optional<LoadedSymbol> SymbolAt(uint64_t address) const;
  // The line of the source there; none but where debuggers are told of the code. Throws
  // std::bad_alloc.
  std::optional<SourceLine> LineAt(uint64_t address) const {
    return image.lines ? image.lines->At(address) : std::nullopt;
  }
  // Which of the load's objects the address is of.
  Name ObjectOf(uint64_t address) const;
  // All that has a name and an address, of which `table` has the symbols by address. Throws
  // std::bad_alloc.
  void AddSymbols(const std::vector<SymbolTable::Named>& table,
                  std::vector<LoadedSymbol>& symbols) const;
  // Where code, constants and variables lie. Throws std::bad_alloc.
  void AddRanges(std::vector<AddressRange>& ranges) const;
  // From now on the code, and its __dso_handle, are found by their addresses, also by debuggers;
  // or no longer. Throws std::bad_alloc and FileError.
  void EnterMap();
  void LeaveMap();

  Dylib& dylib;
  Image image;
  uint64_t objects = 0;
  uint64_t symbols = 0;
  uint64_t users = 0;          // those of the dylib's users that need this code
  Scope::Libraries libraries;  // of a failed load
  // What it was given; null where it failed, or an initializer made it.
  std::shared_ptr<const LoadedFrom> from;
  uint64_t version = 0;  // that the dylib has with it; see Dylib::Sources
  Trampoline* trampolines = nullptr;

 private:
  static constexpr uint64_t kAbandoned = 1ULL << 63;
  void EndUsesOfAbandoned(uint64_t count);

  friend class CodeLifetime;
  std::atomic<uint64_t> uses_{0};
  std::atomic<uint64_t> uses_for_ever_{0};
  std::unique_ptr<DebuggedFile> debugged_;  // where debuggers are told of it
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_LOADED_CODE_H_
