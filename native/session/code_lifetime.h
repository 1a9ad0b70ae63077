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
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "object/source.h"
#include "session/loaded_code.h"

namespace object_loader {

class Dylib;

class CodeLifetime {
 public:
  // Who needs the code beside its owner, and beside what it made (LoadedCode::AddUses).
  enum User {
    kDylib,   // another one that links to it
    kModule,  // one that was made from bytes of it
    kThread,  // a destructor that is to run in a thread
    kUnknown,
    kUserKinds,
  };

  explicit CodeLifetime(Dylib& dylib) : dylib_(dylib) {}
  // There are no users then: they hold the dylib itself.
  ~CodeLifetime();

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
  void Add(std::list<LoadedCode>& loaded);
  // Unloads what a failed load brought, as code of the dylib is. What the initializers constructed
  // and registered goes with the code. Where that is needed, since they gave away a function or an
  // object, or `is_used` says so, it is taken, and goes when the dylib does.
  void Undo(std::list<LoadedCode>& loaded, bool is_used);

  // All code that there is stays in memory until the result is gone. Throws SessionClosedError, as
  // AddUser, and std::bad_alloc.
  std::shared_ptr<void> Keep();
  // Somebody may need the code whom nobody knows.
  void KeepForEver();
  // Throws SessionClosedError where the dylib is closed and no call is inside.
  void AddUser(User kind);
  void RemoveUser(User kind, LoadedCode* of = nullptr);

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
  struct Use;
  friend struct LoadedCode;

  // A destructor of the load is to run in a thread; it has until the result is gone. Throws
  // std::bad_alloc.
  std::shared_ptr<void> KeepForThread(LoadedCode& load);
  // So many of the load's uses end, after the dylib was abandoned: the last one unloads it.
  void EndUses(LoadedCode& load, uint64_t count);
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
  std::list<LoadedCode> loads_;
  // From when it is abandoned until it is unloaded: those who use its code don't hold the dylib.
  std::shared_ptr<Dylib> self_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CODE_LIFETIME_H_
