// SPDX-License-Identifier: Apache-2.0
#include "session/call_gate.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <new>

namespace object_loader {

namespace {

__thread ThreadRecord* this_thread = nullptr;

}  // namespace

struct GateRecords {
  static void EndThread(void* record) {
    this_thread = nullptr;
    static_cast<ThreadRecord*>(record)->in_use.store(false, std::memory_order_release);
  }
  static void Child() { all.ForgetOtherThreads(this_thread); }

  static ThreadRecords<ThreadRecord> all;
};

ThreadRecords<ThreadRecord> GateRecords::all{EndThread};

namespace {

const int registered = pthread_atfork(nullptr, nullptr, GateRecords::Child);

}  // namespace

__attribute__((noinline)) ThreadRecord*& CallScope::OfThisThread() { return this_thread; }

void ThreadRecord::Reset() {
  depth.store(0);
  awaited_below.store(NothingAwaited());
  crossings = 0;
  given = nullptr;  // its thread was in the midst of it
}

std::atomic<const CallGate*>& ThreadRecord::DeepGate(uint32_t number) {
  Part* part = &first;
  for (; number >= kGates; number -= kGates) {
    Part* next = part->next.load(std::memory_order_relaxed);
    if (!next) {
      next = new Part;
      part->next.store(next, std::memory_order_release);
    }
    part = next;
  }
  return part->gates[number];
}

ThreadRecord& CallScope::Register() {
  ThreadRecord* record = GateRecords::all.Take();
  if (!record) throw std::bad_alloc();
  this_thread = record;
  return *record;
}

void (*CallScope::left)() = [] {};

void CallScope::Leave(ThreadRecord& record) {
  record.awaited_below.store(ThreadRecord::NothingAwaited(), std::memory_order_relaxed);
  LightFence();
  left();
}

const CallGate& CallGate::NeverOpen() {
  static const CallGate gate;
  return gate;
}

void CallGate::Close() { closed_.store(true, std::memory_order_seq_cst); }

uint64_t CallGate::CountInside(const ThreadRecord& record, uint64_t most) const {
  uint64_t found = 0;
  uint32_t left = record.depth.load(std::memory_order_acquire);
  for (const ThreadRecord::Part* part = &record.first; left > 0 && found < most;) {
    uint32_t count = std::min(left, ThreadRecord::kGates);
    for (uint32_t i = 0; i < count && found < most; ++i) {
      found += part->gates[i].load(std::memory_order_acquire) == this;
    }
    left -= count;
    part = part->next.load(std::memory_order_acquire);
  }
  return found;
}

uint32_t CallGate::OutermostDepth(const ThreadRecord& record) const {
  uint32_t depth = record.depth.load(std::memory_order_acquire);
  const ThreadRecord::Part* part = &record.first;
  for (uint32_t i = 0; i < depth; ++i) {
    if (i > 0 && i % ThreadRecord::kGates == 0) part = part->next.load(std::memory_order_acquire);
    if (part->gates[i % ThreadRecord::kGates].load(std::memory_order_acquire) == this) return i + 1;
  }
  return 0;
}

bool CallGate::IsInsideOnThisThread() const {
  const ThreadRecord* record = CallScope::OfThisThread();
  return record && IsInside(*record);
}

bool CallGate::IsAnybodyInside() const {
  for (ThreadRecord* record = GateRecords::all.first(); record; record = record->next) {
    if (IsInside(*record)) return true;
  }
  return false;
}

uint64_t CallGate::CountInside() const {
  HeavyFence();
  uint64_t found = 0;
  for (ThreadRecord* record = GateRecords::all.first(); record; record = record->next) {
    found += CountInside(*record, UINT64_MAX);
  }
  return found;
}

bool CallGate::IsEmpty() const {
  HeavyFence();
  return !IsAnybodyInside();
}

bool CallGate::IsEmptyOrAwaited() const {
  HeavyFence();
  bool is_empty = true;
  for (ThreadRecord* record = GateRecords::all.first(); record; record = record->next) {
    uint32_t left = OutermostDepth(*record);
    if (left == 0) continue;
    is_empty = false;
    uint32_t before = record->awaited_below.load();
    while (before < left && !record->awaited_below.compare_exchange_weak(before, left)) {
    }
  }
  return is_empty || IsEmpty();
}

bool CallGate::WaitUntilEmpty(const KeepWaiting& keep_waiting) const {
  HeavyFence();
  constexpr long kFirstPause = 1000;       // nanoseconds
  constexpr long kLongestPause = 1000000;  // nanoseconds
  for (long pause = kFirstPause; IsAnybodyInside(); pause = std::min(2 * pause, kLongestPause)) {
    if (!keep_waiting()) return !IsAnybodyInside();
    timespec time{0, pause};
    nanosleep(&time, nullptr);
  }
  return true;
}

}  // namespace object_loader
