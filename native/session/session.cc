// SPDX-License-Identifier: Apache-2.0
#include "session/session.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "target/target.h"

namespace object_loader {

Session::Session(std::string name) : name_(std::move(name)), process_symbols_(kFirstVersions) {}

std::string Session::ReserveName(const std::optional<std::string>& name) {
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
  if (!names_.insert(chosen).second) {
    throw ObjectLoaderError("session '" + name_ + "' already has a dylib named '" + chosen +
                            "': close that one first, or choose another name");
  }
  return chosen;
}

void Session::Add(std::weak_ptr<SessionMember> member, const std::string& name) {
  std::lock_guard<Mutex> lock(mutex_);
  if (closed_) throw SessionClosedError("session '" + name_ + "' is closed");
  members_.push_back({name, std::move(member)});
}

void Session::Remove(const std::string& name) {
  std::lock_guard<Mutex> lock(mutex_);
  names_.erase(name);
  members_.erase(std::remove_if(members_.begin(), members_.end(),
                                [&](const Entry& entry) { return entry.name == name; }),
                 members_.end());
}

std::vector<std::shared_ptr<SessionMember>> Session::Members() {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<std::shared_ptr<SessionMember>> members;
  for (const Entry& entry : members_) {
    if (auto member = entry.member.lock()) members.push_back(std::move(member));
  }
  return members;
}

void Session::Close() {
  std::vector<std::shared_ptr<SessionMember>> members = Members();
  for (const auto& member : members) member->CheckClosable();
  {
    std::lock_guard<Mutex> lock(mutex_);
    closed_ = true;
  }
  // Once more: one may have been added while the session was not closed yet.
  members = Members();
  for (auto member = members.rbegin(); member != members.rend(); ++member) (*member)->Close();
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

std::map<std::string, uint64_t> Session::Stats() {
  MemoryPool::Usage usage = linker_.memory().usage();
  return {{"dylibs", Members().size()},
          {"objects", objects},
          {"symbols", symbols},
          {"loads", loads},
          {"retained", retained},
          {"bytes_code", usage.code},
          {"bytes_constants", usage.constants},
          {"bytes_data", usage.data},
          {"bytes_reserved", usage.reserved}};
}

}  // namespace object_loader
