// SPDX-License-Identifier: Apache-2.0
//
// Session: one ORC stack (Linker) and the dylibs made in it.
//
// Lifetime: a dylib holds its session, so the stack is there for as long as any code is loaded; the
// session knows its dylibs without holding them. Concurrency: every method may be called from any
// thread; the mutex guards the list of members only and is never held while one of them works.
#ifndef OBJECT_LOADER_SESSION_SESSION_H_
#define OBJECT_LOADER_SESSION_SESSION_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "link/linker.h"
#include "os/process_symbols.h"

namespace object_loader {

// What a session has to know of a dylib.
class SessionMember {
 public:
  virtual ~SessionMember() = default;
  virtual const std::string& name() const = 0;
  // Throws ObjectLoaderError where Close would have to wait for the thread that calls it.
  virtual void CheckClosable() const = 0;
  virtual void Close() = 0;
  // Unloads the code of a member that was closed or dropped, unless something still needs it.
  virtual void TryUnload() = 0;
};

class Session {
 public:
  explicit Session(std::string name);

  const std::string& name() const { return name_; }
  bool closed() const { return closed_; }
  Linker& linker() { return linker_; }
  ProcessSymbols& process_symbols() { return process_symbols_; }

  // The name for a new member: `name`, or one that is made up. Throws SessionClosedError, and
  // ObjectLoaderError for a name that a live member has.
  std::string ReserveName(const std::optional<std::string>& name);
  // Throws SessionClosedError where the session was closed since the name was reserved.
  void Add(std::weak_ptr<SessionMember> member, const std::string& name);
  // Gives the name free, and forgets the member that was added under it. Once for each reservation.
  void Remove(const std::string& name);

  // The open ones, in order of creation.
  std::vector<std::shared_ptr<SessionMember>> Members();

  // Closes all members, the newest first. Nothing is closed if one of them can't be. Idempotent.
  void Close();

  // Keeps a member that was closed or dropped while its code runs, or while threads that do not
  // know of it are to run its destructors.
  void Defer(std::shared_ptr<SessionMember> member);
  // Lets go of it.
  void Forget(const SessionMember& member);
  // Unloads deferred members whose code is no longer needed.
  void ReleaseDeferred();

  std::atomic<uint64_t> objects{0};   // in memory now
  std::atomic<uint64_t> symbols{0};   // in the dylibs' tables now
  std::atomic<uint64_t> loads{0};     // that ever succeeded
  std::atomic<uint64_t> retained{0};  // closed or dropped dylibs whose code is still needed

  std::map<std::string, uint64_t> Stats();

 private:
  struct Entry {
    std::string name;
    std::weak_ptr<SessionMember> member;
  };

  const std::string name_;
  Linker linker_;  // whose names are the keys of the next one
  ProcessSymbols process_symbols_;
  Mutex mutex_;
  std::atomic<bool> closed_{false};
  std::vector<Entry> members_;   // in order of creation
  std::set<std::string> names_;  // reserved
  std::vector<std::shared_ptr<SessionMember>> deferred_;
  uint64_t made_up_names_ = 0;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_SESSION_H_
