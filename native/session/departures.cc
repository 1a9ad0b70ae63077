// SPDX-License-Identifier: Apache-2.0
#include "session/departures.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <vector>

#include "base/fork_lock.h"

namespace object_loader {

namespace {

using Members = std::vector<std::weak_ptr<SessionMember>>;

Mutex mutex;
// Never destroyed: other threads may still leave when the process ends.
Members& awaited = *new Members;
std::atomic<bool> any_awaited{false};

bool IsSame(const std::weak_ptr<SessionMember>& a, const std::shared_ptr<SessionMember>& b) {
  return !a.owner_before(b) && !b.owner_before(a);
}

void Depart() {
  if (!any_awaited.load(std::memory_order_relaxed)) return;
  Members members;
  {
    std::lock_guard<Mutex> lock(mutex);
    any_awaited.store(false, std::memory_order_relaxed);
    members.swap(awaited);
  }
  for (const auto& entry : members) {
    auto member = entry.lock();
    if (!member) continue;
    try {
      member->TryUnload();
    } catch (const std::exception&) {  // no memory: the session tries again with its next load
    }
  }
}

const bool is_set_up = [] {
  CallScope::left = Depart;
  return true;
}();

}  // namespace

bool IsLeftOrAwaited(const std::shared_ptr<SessionMember>& member, const CallGate& gate) {
  {
    std::lock_guard<Mutex> lock(mutex);
    bool is_awaited = std::any_of(awaited.begin(), awaited.end(),
                                  [&](const auto& entry) { return IsSame(entry, member); });
    if (!is_awaited) awaited.push_back(member);
    any_awaited.store(true, std::memory_order_relaxed);  // a fence follows
  }
  return gate.IsEmptyOrAwaited();
}

}  // namespace object_loader
