// SPDX-License-Identifier: Apache-2.0
#include "session/session.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <utility>

#include "base/error.h"
#include "os/profiler.h"
#include "target/target.h"

namespace object_loader {

namespace {

struct Sessions {
  Mutex mutex;
  std::set<Session*> all;
};

Sessions& OfProcess() {
  static auto* sessions = new Sessions;  // in use until the process ends
  return *sessions;
}

}  // namespace

Session::Session(std::string name, Inspection inspection)
    : name_(std::move(name)),
      inspection_(inspection),
      linker_(inspection.any()),
      process_symbols_(kFirstVersions) {
  if (inspection.profile) OpenProfile(kMachine);
  std::lock_guard<Mutex> lock(OfProcess().mutex);
  OfProcess().all.insert(this);
}

Session::~Session() {
  std::lock_guard<Mutex> lock(OfProcess().mutex);
  OfProcess().all.erase(this);
}

std::vector<std::shared_ptr<Session>> Session::All() {
  std::vector<std::shared_ptr<Session>> sessions;
  std::lock_guard<Mutex> lock(OfProcess().mutex);
  for (Session* each : OfProcess().all) {
    if (auto session = each->weak_from_this().lock()) sessions.push_back(std::move(session));
  }
  return sessions;
}

Session::Reservation Session::Reserve(const std::optional<std::string>& name, bool replaces) {
  std::lock_guard<Mutex> lock(mutex_);
  if (closed_) throw SessionClosedError("session '" + name_ + "' is closed");
  std::string chosen;
  if (name) {
    chosen = *name;
  } else {
    do {
      chosen = "dylib-" + std::to_string(++made_up_names_);
    } while (names_.count(chosen));
  }
  uint64_t number = ++last_member_;
  if (!replaces && !names_.try_emplace(chosen, number).second) {
    throw ObjectLoaderError("session '" + name_ + "' already has a dylib named '" + chosen +
                            "': close that one first, choose another name, or load with "
                            "replace=True, which gives the name to the new one");
  }
  return {std::move(chosen), number};
}

void Session::Add(std::weak_ptr<SessionMember> member, const Reservation& reservation) {
  std::lock_guard<Mutex> lock(mutex_);
  if (closed_) throw SessionClosedError("session '" + name_ + "' is closed");
  members_.emplace(reservation.number, std::move(member));
}

void Session::TakeName(const Reservation& reservation) {
  std::lock_guard<Mutex> lock(mutex_);
  // It may have been closed meanwhile.
  if (members_.count(reservation.number)) names_[reservation.name] = reservation.number;
}

void Session::PassName(const Reservation& before, const Reservation& next) {
  std::lock_guard<Mutex> lock(mutex_);
  auto found = names_.find(before.name);
  if (found != names_.end() && found->second == before.number) found->second = next.number;
}

void Session::Remove(const Reservation& reservation) {
  std::lock_guard<Mutex> lock(mutex_);
  members_.erase(reservation.number);
  auto found = names_.find(reservation.name);
  if (found != names_.end() && found->second == reservation.number) names_.erase(found);
}

std::vector<std::shared_ptr<SessionMember>> Session::Members() {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<std::shared_ptr<SessionMember>> members;
  for (const auto& [number, entry] : members_) {
    if (auto member = entry.lock()) members.push_back(std::move(member));
  }
  return members;
}

std::vector<std::shared_ptr<SessionMember>> Session::NamedMembers() {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<std::shared_ptr<SessionMember>> members;
  for (const auto& [number, entry] : members_) {
    auto member = entry.lock();
    auto found = member ? names_.find(member->name()) : names_.end();
    if (found != names_.end() && found->second == number) members.push_back(std::move(member));
  }
  return members;
}

// A thread in Close. The session is closed meanwhile, and afterwards where one of them has
// finished.
class Session::Closing {
 public:
  explicit Closing(Session& session) : session_(session) {
    std::lock_guard<Mutex> lock(session_.mutex_);
    ++session_.closers_;
    session_.closed_ = true;
  }
  ~Closing() {
    for (const auto& member : stopped_) member->ResumeCalls();
    std::lock_guard<Mutex> lock(session_.mutex_);
    if (--session_.closers_ == 0 && !session_.finished_) session_.closed_ = false;
  }
  Closing(const Closing&) = delete;
  Closing& operator=(const Closing&) = delete;

  void Stop(const std::shared_ptr<SessionMember>& member, const KeepWaiting& keep_waiting) {
    stopped_.reserve(stopped_.size() + 1);
    member->StopCalls(keep_waiting);
    stopped_.push_back(member);
  }
  void Finish() {
    std::lock_guard<Mutex> lock(session_.mutex_);
    session_.finished_ = true;
  }

 private:
  Session& session_;
  std::vector<std::shared_ptr<SessionMember>> stopped_;
};

void Session::Close(const KeepWaiting& keep_waiting, bool all_or_none) {
  std::vector<std::shared_ptr<SessionMember>> members = Members();
  for (const auto& member : members) member->CheckClosable();
  Closing closing(*this);
  // Those that were replaced by their next versions, and whose calls have not returned.
  for (const auto& member : RetainedMembers()) {
    if (!member->IsInsideOnThisThread()) closing.Stop(member, keep_waiting);
  }
  // Once more: one may have been added while the session was not closed yet.
  members = Members();
  std::reverse(members.begin(), members.end());
  if (all_or_none) {
    for (const auto& member : members) closing.Stop(member, keep_waiting);
  }
  for (const auto& member : members) {
    // Nobody is inside of what was stopped but calls that are being refused.
    member->Close(all_or_none ? KeepWaiting([] { return true; }) : keep_waiting);
  }
  closing.Finish();
  members.clear();
  ReleaseDeferred();
  linker_.memory().ReleaseUnused();
}

void Session::Defer(std::shared_ptr<SessionMember> member) {
  std::lock_guard<Mutex> lock(mutex_);
  if (std::find(deferred_.begin(), deferred_.end(), member) != deferred_.end()) return;
  deferred_.push_back(std::move(member));
}

void Session::Forget(const SessionMember& member) {
  std::shared_ptr<SessionMember> forgotten;
  std::lock_guard<Mutex> lock(mutex_);
  auto found = std::find_if(deferred_.begin(), deferred_.end(),
                            [&](const auto& deferred) { return deferred.get() == &member; });
  if (found == deferred_.end()) return;
  forgotten = std::move(*found);
  deferred_.erase(found);
}

void Session::ReleaseDeferred() {
  std::vector<std::shared_ptr<SessionMember>> deferred;
  {
    std::lock_guard<Mutex> lock(mutex_);
    deferred = deferred_;
  }
  for (const auto& member : deferred) member->TryUnload();
}

void Session::Retain(SessionMember& member) {
  std::lock_guard<Mutex> lock(mutex_);
  retained_.push_back(member);
}

void Session::Release(SessionMember& member) {
  std::lock_guard<Mutex> lock(mutex_);
  retained_.remove(member);
}

std::vector<std::shared_ptr<SessionMember>> Session::RetainedMembers() {
  std::vector<std::shared_ptr<SessionMember>> members;
  std::lock_guard<Mutex> lock(mutex_);
  for (SessionMember& member : retained_) members.push_back(member.Self());
  return members;
}

}  // namespace object_loader
