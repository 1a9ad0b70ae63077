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

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "base/fork_lock.h"
#include "link/image.h"
#include "os/thread_exit.h"
#include "session/scope.h"

namespace object_loader {

class Dylib;

class CodeLifetime {
 public:
  enum class User { kOther, kThread };
  struct Use;

  // What one load brought.
  struct Loaded : CodeOwner {
    explicit Loaded(Dylib& owner) : dylib(owner) {}
    // The code stays in memory until the result is gone. Throws std::bad_alloc.
    std::shared_ptr<void> Keep();
    std::shared_ptr<void> KeepForThread() override;

    Dylib& dylib;
    Image image;
    uint64_t objects = 0;
    uint64_t symbols = 0;
    uint64_t users = 0;          // those of the dylib's users that need this code
    std::weak_ptr<void> kept;    // what Keep has given
    Scope::Libraries libraries;  // of a failed load

   private:
    void Count(Use& use, User kind);
  };

  explicit CodeLifetime(Dylib& dylib) : dylib_(dylib) {}
  // There are no users then: they hold the dylib itself.
  ~CodeLifetime();

  // The code at this address; null where no dylib's code is there. For use by whoever knows that
  // the code is loaded. Throws std::bad_alloc.
  static std::shared_ptr<void> KeepCodeAt(const void* address);

  // Takes what a load brought, in a list that has it alone.
  void Add(std::list<Loaded>& loaded);
  // Unloads what a failed load brought. What the initializers constructed and registered goes with
  // the code. Where that is needed, since they gave away a function or an object, or `is_used` says
  // so, it is taken, and goes when the dylib does.
  void Undo(std::list<Loaded>& loaded, bool is_used);

  // Throws SessionClosedError where the dylib is closed and no call is inside.
  void AddUser();
  void RemoveUser(User kind = User::kOther, Loaded* of = nullptr);

  // The dylib was closed or dropped. Whoever calls holds a function or the module, and nobody else
  // does: only this thread can be in the midst of a call, whose function it has dropped itself.
  void Abandon();
  // Unloads the code of a dylib that was abandoned, where nothing needs it and no call is inside.
  void TryUnload();

 private:
  // Where nothing needs the code, and `is_left` says that no call is inside.
  void Unload(llvm::function_ref<bool()> is_left);
  void UnloadNow();

  Dylib& dylib_;
  Mutex mutex_;
  uint64_t users_ = 0;         // whoever needs the code beside its owner
  uint64_t thread_users_ = 0;  // those of them that are destructors pending in a thread
  bool abandoned_ = false;     // closed or dropped, and no call is inside
  bool unloaded_ = false;
  std::list<Loaded> loads_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CODE_LIFETIME_H_
