// SPDX-License-Identifier: Apache-2.0
//
// Dylib: what a shared library is to dlopen: objects linked into the process, their symbols
// (SymbolTable), the order of other dylibs in which it looks for what it lacks (Scope), and the
// life of their code (CodeLifetime). One version of it, where it is reloaded: each reload makes
// another one.
//
// Concurrency: loads into one dylib take turns (a load from within an initializer belongs to the
// turn it happens in); the symbols of a load become visible to other threads when its initializers
// have finished. Neither a lock of the dylib's nor ORC's are held while loaded code runs.
#ifndef OBJECT_LOADER_SESSION_DYLIB_H_
#define OBJECT_LOADER_SESSION_DYLIB_H_

#include <llvm/ADT/STLFunctionalExtras.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fork_lock.h"
#include "object/inputs.h"
#include "session/call_gate.h"
#include "session/code_lifetime.h"
#include "session/load_record.h"
#include "session/scope.h"
#include "session/session.h"
#include "session/symbol_table.h"
#include "session/turns.h"

namespace object_loader {

class Dylib : public SessionMember, public std::enable_shared_from_this<Dylib> {
 public:
  // Throws SessionClosedError and ObjectLoaderError (a taken name, a dylib of another session). One
  // that `replaces` the one of its name gets the name with TakeName.
  static std::shared_ptr<Dylib> Create(std::shared_ptr<Session> session,
                                       const std::optional<std::string>& name,
                                       std::vector<Link> link_order, bool replaces);
  // The next version of a dylib. It takes its place with GiveWayTo. Throws as Create does.
  static std::shared_ptr<Dylib> CreateNext(const Dylib& before, std::vector<Link> link_order);
  ~Dylib() override;

  // Makes the dylib one of its session's members. `representation` is for the layer above: how to
  // get from the dylib to what represents it there.
  void Publish(std::shared_ptr<void> representation);
  const std::shared_ptr<void>& representation() const { return representation_; }
  void TakeName() { session_->TakeName(reservation_); }

  // The same for all versions.
  uint64_t id() const { return line_->id; }
  std::shared_ptr<SessionMember> Self() override { return shared_from_this(); }
  const std::string& name() const override { return reservation_.name; }
  const std::shared_ptr<Session>& session() const { return session_; }
  // Empty once the code is unloaded.
  std::vector<Link> link_order() const { return scope_.link_order(); }
  const CallGate& gate() const { return gate_; }
  // Whether this thread is in the midst of a load.
  bool IsLoadingOnThisThread() const { return line_->turns.IsMine(); }
  bool closed() const { return gate_.closed(); }

  SymbolTable& symbols() { return symbols_; }
  const SymbolTable& symbols() const { return symbols_; }
  Scope& scope() { return scope_; }
  const Scope& scope() const { return scope_; }
  CodeLifetime& code() { return code_; }
  LoadTotals& totals() { return line_->totals; }

  // The right to change what is loaded, for one thread at a time, in all versions. Throws
  // ObjectLoaderError where another thread that has it waits for this one.
  class Turn {
   public:
    explicit Turn(Dylib& dylib);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Dylib& dylib_;
  };

  // What its loads were given, in order, but for those that its initializers made: the same loads
  // make these again. Of objects, nothing is left once they are unloaded.
  struct Sources {
    uint64_t version = 0;  // no other state of any dylib has it, but for those with no loads
    std::vector<std::shared_ptr<const LoadedFrom>> loads;
  };
  Sources sources();
  // Of these. It may change a moment before they do.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }
  // For a load that is about to be one of them.
  uint64_t TakeVersion();

  // Links the inputs and runs their initializers, then `on_initialized`. What the dylib lacks is
  // from now on searched in `libraries` as well. If any of it throws, the dylib is as it was. The
  // inputs are still there if it is closed before that (SessionClosedError).
  void Load(Inputs&& inputs, const Scope::Libraries& libraries,
            const std::function<void()>& on_initialized, LoadRecord& record);

  // The names of the exported TVM-FFI functions, sorted. Throws SessionClosedError.
  std::vector<std::string> FunctionNames() const;
  // The address of the function, or null.
  void* FindFunction(const std::string& name) const;
  // The same, or FunctionNotFoundError, or SessionClosedError.
  void* GetFunction(const std::string& name) const;
  // The address of a symbol that this dylib itself exports, or null.
  void* FindSymbol(const std::string& symbol) const;
  // Sets the pointer that is the symbol's variable to null, if there is one.
  void ClearPointer(const std::string& symbol) const { symbols_.ClearPointer(NameRef(symbol)); }
  // As dlsym: searches the link order too. Throws UndefinedSymbolError and SessionClosedError.
  void* Lookup(const std::string& symbol) const;
  // What the dylib offers to those that link to it: its own symbols, then those of its libraries.
  std::optional<Found> FindOffered(NameRef name) const;

  void CheckClosable() const override;
  bool IsInsideOnThisThread() const override { return gate_.IsInsideOnThisThread(); }
  void StopCalls(const KeepWaiting& keep_waiting) override;
  void ResumeCalls() override;
  void Close(const KeepWaiting& keep_waiting) override;
  // As Close, by whoever lets go of the last reference: waits for nobody, and never fails.
  void Drop();
  // The next version takes this one's place, which `switch_over` brings about: calls that come from
  // now on are the next one's. Throws SessionClosedError where one of the two is closed, or being
  // closed. Then Leave() has to follow.
  void GiveWayTo(const Dylib& next, llvm::function_ref<void()> switch_over);
  // The next version gets the name. The code of this one goes when the calls inside have returned,
  // and nothing else needs it.
  void Leave(const Dylib& next);
  void TryUnload() override { code_.TryUnload(); }

  // The message of the SessionClosedError for this dylib.
  std::string ClosedMessage() const;
  void ThrowIfClosed() const;
  // How often something of a load that had not finished was given to somebody.
  uint64_t early_uses() const { return symbols_.early_uses() + scope_.early_uses() + early_uses_; }
  void NoteEarlyUse() { ++early_uses_; }

 private:
  // What the versions of a dylib have in common.
  struct Line {
    uint64_t id;
    Turns turns;
    LoadTotals totals;
  };

  Dylib(std::shared_ptr<Session> session, Session::Reservation reservation,
        std::shared_ptr<Line> line);
  void LinkTo(std::vector<Link> link_order);

  [[noreturn]] void ThrowCircle(const char* what) const;
  void LeaveSession();

  const std::shared_ptr<Line> line_;
  const Session::Reservation reservation_;
  const std::shared_ptr<Session> session_;
  CallGate gate_{*this};
  std::shared_ptr<void> representation_;
  SymbolTable symbols_{line_->turns};
  Scope scope_{line_->turns};
  CodeLifetime code_{*this};
  Mutex mutex_;
  std::atomic<uint64_t> version_{0};
  std::vector<std::pair<uint64_t, std::shared_ptr<const LoadedFrom>>> library_loads_;
  int loading_ = 0;  // loads under way, one within the other; of who has the turn
  int closers_ = 0;  // threads in Close
  bool dropped_ = false;
  std::atomic<bool> left_session_{false};
  std::atomic<uint64_t> early_uses_{0};
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_DYLIB_H_
