// SPDX-License-Identifier: Apache-2.0
#include "base/fork_lock.h"

#include <pthread.h>

#include <atomic>

#include "base/fence.h"
#include "base/thread_records.h"
#include "base/wait.h"

namespace object_loader {

namespace {

struct ForkRecord : ThreadRecordLinks<ForkRecord> {
  std::atomic<bool> is_inside{false};  // of a ForkExclusion
  std::atomic<uint32_t> waits{0};      // for another thread, which may be one that forks
  void Reset() {
    is_inside.store(false);
    waits.store(0);
  }
};

uint32_t forks = 0;       // how many are going on: nobody enters
uint32_t departures = 0;  // changes when those who fork have to look again
// Of threads for whose records there is no memory, so many are inside.
std::atomic<uint32_t> without_record{0};

std::atomic<uint64_t> fork_count{0};
std::atomic<uint64_t> generation{0};  // changes in the child only
std::atomic<uint64_t> survivor{0};    // number of the thread that the last fork kept
std::atomic<uint64_t> last_number{0};
__thread uint32_t exclusions = 0;
__thread uint32_t own_forks = 0;
__thread ForkRecord* this_record = nullptr;
__thread uint64_t this_thread = 0;

void EndThread(void* record) {
  this_record = nullptr;
  static_cast<ForkRecord*>(record)->in_use.store(false, std::memory_order_release);
}

ThreadRecords<ForkRecord> records{EndThread};

__attribute__((noinline)) uint64_t ThisThreadNumber() {
  if (this_thread == 0) this_thread = last_number.fetch_add(1) + 1;
  return this_thread;
}

// Null where there is no memory for it.
ForkRecord* RecordOfThisThread() {
  if (__builtin_expect(!this_record, false)) this_record = records.Take();
  return this_record;
}

uint32_t Forks() { return __atomic_load_n(&forks, __ATOMIC_ACQUIRE); }

// This thread's record has changed so that a fork may go on.
void TellForks() {
  LightFence();
  if (__builtin_expect(Forks() == 0, true)) return;
  __atomic_add_fetch(&departures, 1, __ATOMIC_RELEASE);
  WakeAll(departures);
}

// Whether a fork of this thread's has to wait for another one.
bool MustWaitForOthers() {
  const bool is_in_between = exclusions > 0;  // of a signal handler
  if (!is_in_between && without_record.load(std::memory_order_acquire) != 0) return true;
  for (ForkRecord* record = records.first(); record; record = record->next) {
    if (record == this_record || !record->is_inside.load(std::memory_order_acquire)) continue;
    if (!is_in_between || record->waits.load(std::memory_order_acquire) == 0) return true;
  }
  return false;
}

bool HaveOtherThreadsRecords() {
  if (without_record.load() != 0) return true;
  for (ForkRecord* record = records.first(); record; record = record->next) {
    if (record != this_record && record->in_use.load()) return true;
  }
  return false;
}

}  // namespace

__attribute__((noinline)) uint32_t& ForkExclusion::Depth() { return exclusions; }

struct ForkHandlers {
  ForkHandlers() { pthread_atfork(Prepare, Parent, Child); }

  static void Prepare() {
    ++own_forks;
    ForkExclusion::BeginWait();
    __atomic_add_fetch(&forks, 1, __ATOMIC_SEQ_CST);
    if (HaveOtherThreadsRecords()) HeavyFence();
    for (;;) {
      uint32_t before = __atomic_load_n(&departures, __ATOMIC_ACQUIRE);
      if (!MustWaitForOthers()) return;
      WaitWhile(departures, before);
    }
  }

  static void Parent() {
    fork_count.fetch_add(1);
    ForkExclusion::EndWait();
    --own_forks;
    if (__atomic_sub_fetch(&forks, 1, __ATOMIC_SEQ_CST) == 0) WakeAll(forks);
  }

  static void Child() {
    fork_count.fetch_add(1);
    survivor = ThisThreadNumber();
    generation.fetch_add(1);
    records.ForgetOtherThreads(this_record);
    without_record = !this_record && ForkExclusion::Depth() > 0;
    ForkExclusion::EndWait();
    // A handler of this thread's may fork while it is about to.
    __atomic_store_n(&forks, --own_forks, __ATOMIC_RELEASE);
  }
};

namespace {

// Handlers of the loaded code itself come later, so theirs run before Prepare and after Parent and
// Child: they may load.
const ForkHandlers registered;

}  // namespace

void ForkExclusion::Enter() {
  ForkRecord* record = RecordOfThisThread();
  for (;;) {
    if (record) {
      record->is_inside.store(true, std::memory_order_relaxed);
      LightFence();
    } else {
      without_record.fetch_add(1);
    }
    uint32_t now = Forks();
    if (__builtin_expect(now == 0 || own_forks > 0, true)) return;
    Leave();
    WaitWhile(forks, now);
  }
}

void ForkExclusion::Leave() {
  if (this_record) {
    this_record->is_inside.store(false, std::memory_order_release);
  } else {
    without_record.fetch_sub(1);
  }
  TellForks();
}

void ForkExclusion::BeginWait() {
  if (!this_record) return;
  this_record->waits.fetch_add(1, std::memory_order_release);
  TellForks();
}

void ForkExclusion::EndWait() {
  // A signal handler may have made the record since.
  if (this_record && this_record->waits.load() > 0) this_record->waits.fetch_sub(1);
}

ForkInclusion::ForkInclusion() : depth_(ForkExclusion::Depth()) {
  ForkExclusion::Depth() = 0;
  if (depth_ > 0) ForkExclusion::Leave();
}

ForkInclusion::~ForkInclusion() {
  if (depth_ > 0) ForkExclusion::Enter();
  ForkExclusion::Depth() = depth_;
}

void Mutex::LockSlowly() {
  for (int attempt = 0; attempt < 32; ++attempt) {
    Yield();
    if (mutex_.try_lock()) return;
  }
  ForkExclusion::BeginWait();
  mutex_.lock();
  ForkExclusion::EndWait();
}

uint64_t ForkCount() { return fork_count.load(std::memory_order_relaxed); }

ThreadName ThreadName::OfThisThread() {
  ThreadName name;
  name.number_ = ThisThreadNumber();
  name.process_ = generation.load(std::memory_order_relaxed);
  return name;
}

bool ThreadName::LeftBehind() const {
  return number_ != 0 && process_ != generation.load(std::memory_order_relaxed) &&
         number_ != survivor.load(std::memory_order_relaxed);
}

}  // namespace object_loader
