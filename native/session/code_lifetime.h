// SPDX-License-Identifier: Apache-2.0
//
// CodeLifetime: the code of one dylib, and who needs it.
//
// Code stays loaded until the dylib is closed or dropped, and after that for as long as it has
// users: other dylibs that link to it, threads that are to run its destructors, objects that it
// made. What a failed load ran and left such users stays as well, unseen, until the dylib is
// unloaded.
//
// Concurrency: every method may be called from any thread. No lock is held while loaded code runs.
#ifndef OBJECT_LOADER_SESSION_CODE_LIFETIME_H_
#define OBJECT_LOADER_SESSION_CODE_LIFETIME_H_

#include <llvm/ADT/STLFunctionalExtras.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "link/image.h"
#include "object/source.h"
#include "os/debugger.h"
#include "os/thread_exit.h"
#include "session/scope.h"

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

class CodeLifetime {
 public:
  // Who needs the code beside its owner, and beside what it made (Loaded::AddUses).
  enum User {
    kDylib,   // another one that links to it
    kModule,  // one that was made from bytes of it
    kThread,  // a destructor that is to run in a thread
    kUnknown,
    kUserKinds,
  };
  struct Use;

  // What one load brought.
  struct Loaded : CodeOwner {
    explicit Loaded(Dylib& owner) : dylib(owner) {}
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

  explicit CodeLifetime(Dylib& dylib) : dylib_(dylib) {}
  // There are no users then: they hold the dylib itself.
  ~CodeLifetime();

  // The code at this address; null where no dylib's code is there. For use by whoever knows that
  // the code is loaded.
  static Loaded* CodeAt(const void* address);

  // What its loads were given, in order. `visit` is called while a lock is held.
  void VisitSources(
      llvm::function_ref<void(uint64_t version, const std::shared_ptr<const LoadedFrom>&)> visit);

  // All that has a name and an address, by address. Throws std::bad_alloc.
  std::vector<LoadedSymbol> Symbols();
  // Whether a destructor is registered for what lies there.
  bool HasDestructor(const LoadedSymbol& variable);
  // Where code, constants and variables lie.
  std::vector<AddressRange> Ranges() const;

  // Takes what a load brought, in a list that has it alone.
  void Add(std::list<Loaded>& loaded);
  // Unloads what a failed load brought, as code of the dylib is. What the initializers constructed
  // and registered goes with the code. Where that is needed, since they gave away a function or an
  // object, or `is_used` says so, it is taken, and goes when the dylib does.
  void Undo(std::list<Loaded>& loaded, bool is_used);

  // All code that there is stays in memory until the result is gone. Throws SessionClosedError, as
  // AddUser, and std::bad_alloc.
  std::shared_ptr<void> Keep();
  // Somebody may need the code whom nobody knows.
  void KeepForEver();
  // Throws SessionClosedError where the dylib is closed and no call is inside.
  void AddUser(User kind);
  void RemoveUser(User kind, Loaded* of = nullptr);

  // Pieces of the constants that begin with `start`, each of at most `size` bytes. For use by
  // whoever knows that the code stays loaded meanwhile.
  std::vector<std::string> FindConstants(const std::string& start, size_t size) const;

  // The dylib was closed or dropped, or replaced by its next version, and then `is_being_called`:
  // any thread may be in the midst of a call. Otherwise whoever calls holds a function or the
  // module, and nobody else does: only this thread can be, and has dropped the function itself.
  void Abandon(bool is_being_called = false);

  // How much is in memory, and who needs it.
  struct Needs {
    bool is_retained = false;  // the dylib was closed or dropped, and the code is there
    uint64_t loaded_objects = 0;
    Image::Bytes bytes;
    uint64_t objects = 0;  // that the code made, and somebody holds
    uint64_t dylibs = 0;
    uint64_t modules = 0;
    uint64_t destructors = 0;
    uint64_t for_ever = 0;
  };
  Needs CountNeeds() const;

  // Unloads the code of a dylib that was abandoned, where nothing needs it and no call is inside.
  void TryUnload();

 private:
  // Where nothing needs the code, and `is_left` says that no call is inside. Returns whether it is
  // unloaded.
  bool Unload(llvm::function_ref<bool()> is_left);
  void UnloadNow();
  // Whether anybody but destructors pending in threads needs the code.
  bool IsUsed() const;
  uint64_t CountUsers() const;

  Dylib& dylib_;
  mutable Mutex mutex_;
  std::array<uint64_t, kUserKinds> users_{};
  bool abandoned_ = false;  // closed or dropped, and no call is inside
  bool retained_ = false;   // the session was told so
  bool unloaded_ = false;
  std::list<Loaded> loads_;
  // From when it is abandoned until it is unloaded: those who use its code don't hold the dylib.
  std::shared_ptr<Dylib> self_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CODE_LIFETIME_H_
