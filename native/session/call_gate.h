// SPDX-License-Identifier: Apache-2.0
//
// CallGate: lets calls into loaded code through, until it is closed; closing waits for those
// inside.
//
// A call must cost next to nothing and take no lock, while closing is rare and may be slow. So each
// thread notes the gates that it is inside of in a record of its own, with plain stores, and
// whoever closes a gate makes those stores visible (base/fence.h) and then looks through the
// records of all threads.
//
// Order, for a call and a close that meet: the call writes its record and then reads `closed_`; the
// closer writes `closed_`, fences all threads, and then reads the records. So at least one of them
// sees the other, on every processor: the fence is a full one on either side, the call's own
// (LightFence) or the one that membarrier has its thread pass.
//
// Order, for a call that ends: what it did comes before the closer goes on. For the closer goes on
// since it reads in the record what the thread wrote after the call, its depth or the gate of a
// later call; both are written with release and read with acquire.
//
// Order, for a call that ends and somebody who wants to know when: the call writes its depth and
// then reads `awaited_below`; the other one writes that, fences all threads, and then looks through
// the records again. So at least one of them sees the other. Where there is no such fence, every
// call looks whether anything is awaited, behind a fence of its own.
#ifndef OBJECT_LOADER_SESSION_CALL_GATE_H_
#define OBJECT_LOADER_SESSION_CALL_GATE_H_

#include <atomic>
#include <cstdint>

#include "base/fence.h"
#include "base/thread_records.h"
#include "base/wait.h"

namespace object_loader {

class CallGate;
class Dylib;

// What one thread is inside of.
struct ThreadRecord : ThreadRecordLinks<ThreadRecord> {
  static constexpr uint32_t kGates = 64;
  // The gates that calls, nested in each other, have passed. Never freed.
  struct Part {
    std::atomic<const CallGate*> gates[kGates] = {};
    std::atomic<Part*> next{nullptr};
  };
  // For use by the record's thread. Throws std::bad_alloc.
  std::atomic<const CallGate*>& DeepGate(uint32_t number);
  void Reset();
  static uint32_t NothingAwaited() { return needs_light_fences ? UINT32_MAX : 0; }

  Part first;
  std::atomic<uint32_t> depth{0};
  // When the thread is inside of fewer gates than these, somebody may want to know.
  std::atomic<uint32_t> awaited_below{NothingAwaited()};
  // The thread's own, for whoever makes its calls.
  uint32_t crossings = 0;
  void* given = nullptr;
};

class CallGate {
 public:
  explicit CallGate(Dylib& dylib) : dylib_(&dylib) {}
  CallGate(const CallGate&) = delete;
  CallGate& operator=(const CallGate&) = delete;

  // Whose code the calls are of.
  Dylib& dylib() const { return *dylib_; }
  // One that is nobody's, and closed.
  static const CallGate& NeverOpen();

  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // Lets no further call in. Idempotent.
  void Close();
  // Waits until nobody is inside any more; false where `keep_waiting` said no before. The gate must
  // be closed, and this thread outside.
  bool WaitUntilEmpty(const KeepWaiting& keep_waiting) const;
  // Whether nobody is inside any more. The gate must be closed.
  bool IsEmpty() const;
  // The same; where somebody is, CallScope::left is called by each thread that is, when it is no
  // longer.
  bool IsEmptyOrAwaited() const;
  bool IsInsideOnThisThread() const;
  // How many calls are inside, in all threads. A call may come or go meanwhile.
  uint64_t CountInside() const;
  // Whether the record's thread is. It must be this thread, or one that waits.
  bool IsInside(const ThreadRecord& record) const { return CountInside(record, 1) != 0; }
  // Lets calls in again.
  void Reopen() { closed_.store(false, std::memory_order_seq_cst); }

 private:
  friend class CallScope;
  bool IsAnybodyInside() const;
  // How many of the record's calls are inside, up to `most`.
  uint64_t CountInside(const ThreadRecord& record, uint64_t most) const;
  // How deep the record's thread is when it is inside for the first time; 0: it is not.
  uint32_t OutermostDepth(const ThreadRecord& record) const;

  CallGate() : closed_(true) {}

  Dylib* const dylib_ = nullptr;
  std::atomic<bool> closed_{false};
};

// One call through a gate.
class CallScope {
 public:
  // Does not look at the gate itself, which may be gone: see `entered`.
  explicit CallScope(const CallGate* gate) : gate_(gate) {
    ThreadRecord& record = ThisThread();
    depth_ = record.depth.load(std::memory_order_relaxed);
    bool is_shallow = __builtin_expect(depth_ < ThreadRecord::kGates, true);
    auto& place = is_shallow ? record.first.gates[depth_] : record.DeepGate(depth_);
    place.store(gate, std::memory_order_release);
    record.depth.store(depth_ + 1, std::memory_order_release);
    record_ = &record;
    LightFence();
  }
  ~CallScope() {
    record_->depth.store(depth_, std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (__builtin_expect(depth_ < record_->awaited_below.load(std::memory_order_relaxed), false)) {
      Leave(*record_);
    }
  }
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  // Null where the thread has never made a call.
  static ThreadRecord* RecordOfThisThread() { return OfThisThread(); }
  // Made where there is none. Throws std::bad_alloc.
  static ThreadRecord& MakeRecordOfThisThread() { return ThisThread(); }
  ThreadRecord& record() const { return *record_; }
  // Whether it was made by loaded code, as far as is known.
  bool is_nested() const { return depth_ > 0 || record_->crossings > 0; }

  // False where the gate was closed before: the call must not be made. The gate must be known to
  // be there.
  bool entered() const {
    return __builtin_expect(!gate_->closed_.load(std::memory_order_relaxed), true);
  }

  // What is called where somebody may have waited for that; it does not throw.
  static void (*left)();

 private:
  static ThreadRecord& ThisThread() {
    ThreadRecord* record = OfThisThread();
    return __builtin_expect(record != nullptr, true) ? *record : Register();
  }
  static ThreadRecord& Register();
  static void Leave(ThreadRecord& record);

  // Null where the thread has made no call yet; see ForkExclusion::Depth.
  static ThreadRecord*& OfThisThread();

  friend class CallGate;
  friend struct GateRecords;
  const CallGate* const gate_;
  ThreadRecord* record_;
  uint32_t depth_;  // of the gates that the thread was inside of before
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CALL_GATE_H_
