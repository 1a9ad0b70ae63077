// SPDX-License-Identifier: Apache-2.0
#include "session/turns.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "base/wait.h"

namespace object_loader {

// A thread that waits. The table holds them by value: a thread that a fork leaves behind never
// takes its own entry out.
struct WaitingThread {
  ThreadName thread;
  const ThreadRecord* record;  // null where it never called loaded code
  const Turns* turns;          // either this
  const CallGate* gate;        // or this
};

namespace {

Mutex mutex;
// Never destroyed: other threads may still wait when the process ends.
std::vector<WaitingThread>& waiting = *new std::vector<WaitingThread>;

}  // namespace

Turns::Outcome Turns::Take() {
  ThreadName me = ThreadName::OfThisThread();
  std::unique_lock<Mutex> lock(mutex_);
  Outcome outcome = kTaken;
  while (depth_ > 0 && holder_ != me) {
    if (holder_.LeftBehind()) {
      depth_ = 0;
      outcome = kInherited;
      break;
    }
    uint32_t ends = ends_;
    lock.unlock();
    {
      Waiting wait(*this);
      if (!wait.can_end()) return kCircle;
      __atomic_fetch_add(&sleepers_, 1, __ATOMIC_SEQ_CST);
      WaitWhile(ends_, ends);
      __atomic_fetch_sub(&sleepers_, 1, __ATOMIC_SEQ_CST);
    }
    lock.lock();
  }
  holder_ = me;
  ++depth_;
  return outcome;
}

void Turns::End() {
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (--depth_ > 0) return;
    holder_ = {};
    __atomic_fetch_add(&ends_, 1, __ATOMIC_SEQ_CST);
  }
  // Who becomes a sleeper after this look finds that ends_ has changed.
  if (__atomic_load_n(&sleepers_, __ATOMIC_SEQ_CST) != 0) WakeAll(ends_);
}

bool Turns::IsMine() const { return holder() == ThreadName::OfThisThread(); }

ThreadName Turns::holder() const {
  std::lock_guard<Mutex> lock(mutex_);
  return holder_;
}

Waiting::Waiting(const Turns& turns) { Enter(&turns, nullptr); }

Waiting::Waiting(const CallGate& gate) { Enter(nullptr, &gate); }

void Waiting::Enter(const Turns* turns, const CallGate* gate) {
  ThreadName me = ThreadName::OfThisThread();
  const ThreadRecord* my_record = CallScope::RecordOfThisThread();
  std::lock_guard<Mutex> lock(mutex);
  waiting.erase(
      std::remove_if(waiting.begin(), waiting.end(),
                     [](const WaitingThread& entry) { return entry.thread.LeftBehind(); }),
      waiting.end());
  // The threads that have to go on before this one can, step by step. What a thread that waits is
  // inside of, and which turns it has, does not change meanwhile.
  std::vector<WaitingThread> before = {{me, my_record, turns, gate}};
  for (size_t i = 0; i < before.size(); ++i) {
    const WaitingThread at = before[i];
    ThreadName holder = at.turns ? at.turns->holder() : ThreadName();
    auto keeps_waiting = [&](ThreadName thread, const ThreadRecord* record) {
      return at.turns ? thread == holder : record && at.gate->IsInside(*record);
    };
    if (i > 0 && keeps_waiting(me, my_record)) return;
    for (const WaitingThread& entry : waiting) {
      bool known = std::any_of(before.begin(), before.end(), [&](const WaitingThread& other) {
        return other.thread == entry.thread;
      });
      if (!known && keeps_waiting(entry.thread, entry.record)) before.push_back(entry);
    }
  }
  waiting.push_back(before.front());
  can_end_ = true;
}

Waiting::~Waiting() {
  if (!can_end_) return;
  ThreadName me = ThreadName::OfThisThread();
  std::lock_guard<Mutex> lock(mutex);
  waiting.erase(std::find_if(waiting.begin(), waiting.end(),
                             [&](const WaitingThread& entry) { return entry.thread == me; }));
}

}  // namespace object_loader
