// SPDX-License-Identifier: Apache-2.0
#include "session/call_gate.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "os/fence.h"

namespace object_loader {

namespace {

std::atomic<ThreadRecord*> all_records{nullptr};

// In the child only the forking thread lives on.
void ForgetOtherThreads();

bool NeedsFence() {
  pthread_atfork(nullptr, nullptr, ForgetOtherThreads);
  return !CanFenceAllThreads();
}

}  // namespace

__thread ThreadRecord* CallScope::this_thread_ = nullptr;
bool CallScope::needs_fence_ = NeedsFence();

// Gives the record back when its thread ends.
struct ThreadRecordOwner {
  ThreadRecord* record = nullptr;
  ~ThreadRecordOwner() {
    if (!record) return;
    CallScope::this_thread_ = nullptr;
    record->in_use.store(false, std::memory_order_release);
  }
  static ThreadRecord* OfThisThread() { return CallScope::this_thread_; }
  static void Fence() {
    if (CallScope::needs_fence_) return std::atomic_thread_fence(std::memory_order_seq_cst);
    FenceAllThreads();
  }
};

namespace {

thread_local ThreadRecordOwner record_owner;

void ForgetOtherThreads() {
  ThreadRecord* mine = ThreadRecordOwner::OfThisThread();
  for (ThreadRecord* record = all_records.load(); record; record = record->next) {
    if (record == mine) continue;
    record->depth.store(0);
    record->in_use.store(false);
  }
}

}  // namespace

ThreadRecord& CallScope::Register() {
  ThreadRecord* record = all_records.load(std::memory_order_acquire);
  for (; record; record = record->next) {
    bool expected = false;
    if (record->in_use.compare_exchange_strong(expected, true)) break;
  }
  if (!record) {
    record = new ThreadRecord;
    record->next = all_records.load(std::memory_order_relaxed);
    while (!all_records.compare_exchange_weak(record->next, record, std::memory_order_release)) {
    }
  }
  record_owner.record = record;
  this_thread_ = record;
  return *record;
}

void CallGate::Close() { closed_.store(true, std::memory_order_seq_cst); }

bool CallGate::IsInside(const ThreadRecord& record) const {
  uint32_t depth = std::min(record.depth.load(std::memory_order_acquire), ThreadRecord::kMaxDepth);
  for (uint32_t i = 0; i < depth; ++i) {
    if (record.gates[i].load(std::memory_order_relaxed) == this) return true;
  }
  return false;
}

bool CallGate::IsInsideOnThisThread() const {
  const ThreadRecord* record = CallScope::this_thread_;
  if (!record) return false;
  // Deeper calls are not told apart by thread: taking them all for this thread's own is safe.
  return IsInside(*record) ||
         (record->depth.load(std::memory_order_relaxed) > ThreadRecord::kMaxDepth &&
          deep_calls_.load(std::memory_order_acquire) != 0);
}

bool CallGate::IsAnybodyInside() const {
  if (deep_calls_.load(std::memory_order_acquire) != 0) return true;
  for (ThreadRecord* record = all_records.load(std::memory_order_acquire); record;
       record = record->next) {
    if (IsInside(*record)) return true;
  }
  return false;
}

bool CallGate::IsEmpty() const {
  ThreadRecordOwner::Fence();
  return !IsAnybodyInside();
}

void CallGate::WaitUntilEmpty() const {
  ThreadRecordOwner::Fence();
  constexpr long kFirstPause = 1000;       // nanoseconds
  constexpr long kLongestPause = 1000000;  // nanoseconds
  for (long pause = kFirstPause; IsAnybodyInside(); pause = std::min(2 * pause, kLongestPause)) {
    timespec time{0, pause};
    nanosleep(&time, nullptr);
  }
}

}  // namespace object_loader
