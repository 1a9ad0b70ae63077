// SPDX-License-Identifier: Apache-2.0
//
// Session: one ORC stack (Linker) and the dylibs made in it.
//
// Lifetime: a dylib holds its session, so the stack is there for as long as any code is loaded; the
// session knows its dylibs without holding them. Concurrency: every method may be called from any
// thread; the mutex guards the list of members only and is never held while one of them works.
#ifndef OBJECT_LOADER_SESSION_SESSION_H_
#define OBJECT_LOADER_SESSION_SESSION_H_

#include <llvm/ADT/ilist_node.h>
#include <llvm/ADT/simple_ilist.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "base/wait.h"
#include "link/linker.h"
#include "os/process_symbols.h"
#include "session/load_record.h"

namespace object_loader {

// What a session has to know of a dylib.
class SessionMember : public llvm::ilist_node<SessionMember> {
 public:
  virtual ~SessionMember() = default;
  virtual std::shared_ptr<SessionMember> Self() = 0;
  virtual const std::string& name() const = 0;
  // Throws ObjectLoaderError where Close would have to wait for the thread that calls it.
  virtual void CheckClosable() const = 0;
  // Whether one of the calls inside is this thread's.
  virtual bool IsInsideOnThisThread() const = 0;
  // Lets no call in, and waits for those inside. Throws GaveUpWaiting, and is open again then.
  virtual void StopCalls(const KeepWaiting& keep_waiting) = 0;
  // After StopCalls: calls are let in again, unless somebody else has closed it.
  virtual void ResumeCalls() = 0;
  virtual void Close(const KeepWaiting& keep_waiting) = 0;
  // Unloads the code of a member that was closed or dropped, unless something still needs it.
  virtual void TryUnload() = 0;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  // For whom the session does more than others.
  struct Inspection {
    bool debug = false;    // debuggers
    bool profile = false;  // perf
    bool any() const { return debug || profile; }
  };
  // Throws FileError where there is to be a profile, and its files can't be written.
  Session(std::string name, Inspection inspection);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Those of the process.
  static std::vector<std::shared_ptr<Session>> All();

  const std::string& name() const { return name_; }
  const Inspection& inspection() const { return inspection_; }
  // Whether what is loaded from now on is remembered with its content, so that it can be sent.
  bool keeps_contents() const { return keeps_contents_; }
  void KeepContents(bool keep) { keeps_contents_ = keep; }
  bool closed() const { return closed_; }
  Linker& linker() { return linker_; }
  ProcessSymbols& process_symbols() { return process_symbols_; }

  // The place of a member, from before it is there.
  struct Reservation {
    std::string name;
    uint64_t number;
  };
  // For a new member with this name, or one that is made up. Throws SessionClosedError, and
  // ObjectLoaderError for a name that a live member has. One that `replaces` it gets its name with
  // TakeName.
  Reservation Reserve(const std::optional<std::string>& name, bool replaces);
  // Throws SessionClosedError where the session was closed since the reservation.
  void Add(std::weak_ptr<SessionMember> member, const Reservation& reservation);
  // From now on the name is this member's. Who had it before goes on without being found by it.
  void TakeName(const Reservation& reservation);
  // The same, if `before` is who has it.
  void PassName(const Reservation& before, const Reservation& next);
  // Forgets the member, and gives its name free. Once for each reservation.
  void Remove(const Reservation& reservation);

  // The open ones, in order of creation.
  std::vector<std::shared_ptr<SessionMember>> Members();
  // Those among them whose names are theirs.
  std::vector<std::shared_ptr<SessionMember>> NamedMembers();

  // Closes all members, the newest first. Nothing is closed if one of them can't be, or where
  // `all_or_none` says so if waiting was given up. Throws GaveUpWaiting. Idempotent.
  void Close(const KeepWaiting& keep_waiting, bool all_or_none);

  // Keeps a member that was closed or dropped while its code runs, or while threads that do not
  // know of it are to run its destructors.
  void Defer(std::shared_ptr<SessionMember> member);
  // Lets go of it.
  void Forget(const SessionMember& member);
  // Unloads deferred members whose code is no longer needed.
  void ReleaseDeferred();

  // A member was closed or dropped, and its code is still needed; it is no longer. Neither throws.
  void Retain(SessionMember& member);
  void Release(SessionMember& member);
  // The members for which that holds.
  std::vector<std::shared_ptr<SessionMember>> RetainedMembers();

  std::atomic<uint64_t> objects{0};  // in memory now
  std::atomic<uint64_t> symbols{0};  // in the dylibs' tables now
  LoadTotals totals;

 private:
  class Closing;

  const std::string name_;
  const Inspection inspection_;
  Linker linker_;
  ProcessSymbols process_symbols_;
  Mutex mutex_;
  std::atomic<bool> closed_{false};
  std::atomic<bool> keeps_contents_{false};
  int closers_ = 0;                                           // threads in Close
  bool finished_ = false;                                     // one of them has closed everything
  std::map<uint64_t, std::weak_ptr<SessionMember>> members_;  // in order of creation
  std::map<std::string, uint64_t> names_;                     // the number of who has it
  uint64_t last_member_ = 0;
  std::vector<std::shared_ptr<SessionMember>> deferred_;
  llvm::simple_ilist<SessionMember> retained_;
  uint64_t made_up_names_ = 0;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_SESSION_H_
