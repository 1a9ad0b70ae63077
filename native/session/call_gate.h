// SPDX-License-Identifier: Apache-2.0
//
// CallGate: lets calls into loaded code through, until it is closed; closing waits for those
// inside.
//
// A call must cost next to nothing and take no lock, while closing is rare and may be slow. So each
// thread notes the gates that it is inside of in a record of its own, with plain stores, and
// whoever closes a gate makes those stores visible (membarrier(2), an asymmetric fence: the same
// idea as userspace RCU) and then looks through the records of all threads.
//
// Order, for a call and a close that meet: the call writes its record and then reads `closed_`; the
// closer writes `closed_`, fences all threads, and then reads the records. So at least one of them
// sees the other.
#ifndef OBJECT_LOADER_SESSION_CALL_GATE_H_
#define OBJECT_LOADER_SESSION_CALL_GATE_H_

#include <atomic>
#include <cstdint>

namespace object_loader {

class CallGate;

// What one thread is inside of. Lives as long as the process; a later thread takes over the record
// of one that ended.
struct ThreadRecord {
  static constexpr uint32_t kMaxDepth = 64;
  std::atomic<const CallGate*> gates[kMaxDepth] = {};
  std::atomic<uint32_t> depth{0};
  std::atomic<bool> in_use{true};
  ThreadRecord* next = nullptr;
};

class CallGate {
 public:
  CallGate() = default;
  CallGate(const CallGate&) = delete;
  CallGate& operator=(const CallGate&) = delete;

  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // Lets no further call in. Idempotent.
  void Close();
  // Returns when nobody is inside any more. The gate must be closed, and this thread outside.
  void WaitUntilEmpty() const;
  // Whether nobody is inside any more. The gate must be closed.
  bool IsEmpty() const;
  bool IsInsideOnThisThread() const;
  // Whether the record's thread is. It must be this thread, or one that waits.
  bool IsInside(const ThreadRecord& record) const;
  // Lets calls in again.
  void Reopen() { closed_.store(false, std::memory_order_seq_cst); }

 private:
  friend class CallScope;
  bool IsAnybodyInside() const;

  std::atomic<bool> closed_{false};
  // Calls nested deeper than a record holds, of all threads.
  mutable std::atomic<uint64_t> deep_calls_{0};
};

// One call through a gate.
class CallScope {
 public:
  explicit CallScope(const CallGate& gate) : gate_(gate) {
    ThreadRecord& record = ThisThread();
    uint32_t depth = record.depth.load(std::memory_order_relaxed);
    if (__builtin_expect(depth < ThreadRecord::kMaxDepth, true)) {
      record.gates[depth].store(&gate, std::memory_order_relaxed);
    } else {
      gate.deep_calls_.fetch_add(1, std::memory_order_seq_cst);
    }
    record.depth.store(depth + 1, std::memory_order_release);
    record_ = &record;
    if (__builtin_expect(needs_fence_, false)) {
      std::atomic_thread_fence(std::memory_order_seq_cst);
    } else {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
  }
  ~CallScope() {
    uint32_t depth = record_->depth.load(std::memory_order_relaxed) - 1;
    record_->depth.store(depth, std::memory_order_release);
    if (__builtin_expect(depth >= ThreadRecord::kMaxDepth, false)) {
      gate_.deep_calls_.fetch_sub(1, std::memory_order_release);
    }
  }
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  // Null where the thread has never made a call.
  static const ThreadRecord* RecordOfThisThread() { return this_thread_; }

  // False where the gate was closed before: the call must not be made.
  bool entered() const {
    return __builtin_expect(!gate_.closed_.load(std::memory_order_relaxed), true);
  }

 private:
  static ThreadRecord& ThisThread() {
    ThreadRecord* record = this_thread_;
    return __builtin_expect(record != nullptr, true) ? *record : Register();
  }
  static ThreadRecord& Register();

  // initial-exec: one load, no call to __tls_get_addr; the pointer fits in the static TLS reserve.
  // __thread, since elsewhere a thread_local might need to be initialized first.
  static __thread ThreadRecord* this_thread_ __attribute__((tls_model("initial-exec")));
  static bool needs_fence_;  // no membarrier on this kernel

  friend class CallGate;
  friend struct ThreadRecordOwner;
  const CallGate& gate_;
  ThreadRecord* record_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CALL_GATE_H_
