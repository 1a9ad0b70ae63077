// SPDX-License-Identifier: Apache-2.0
#include "base/fork_lock.h"

#include <pthread.h>

#include <atomic>

#include "base/wait.h"

namespace object_loader {

namespace {

// The number of threads in a ForkExclusion, and whether a fork waits for them.
constexpr uint32_t kForking = uint32_t{1} << 31;
uint32_t state = 0;

std::atomic<uint64_t> fork_count{0};
std::atomic<uint64_t> generation{0};  // changes in the child only
std::atomic<uint64_t> survivor{0};    // number of the thread that the last fork kept
std::atomic<uint64_t> last_number{0};
thread_local uint64_t this_thread __attribute__((tls_model("initial-exec"))) = 0;

uint64_t ThisThreadNumber() {
  if (this_thread == 0) this_thread = last_number.fetch_add(1) + 1;
  return this_thread;
}

}  // namespace

thread_local uint32_t ForkExclusion::depth_ = 0;

struct ForkHandlers {
  ForkHandlers() { pthread_atfork(Prepare, Parent, Child); }

  static void Prepare() {
    uint32_t now = __atomic_load_n(&state, __ATOMIC_RELAXED);
    for (;;) {
      if (now & kForking) {
        WaitWhile(state, now);
        now = __atomic_load_n(&state, __ATOMIC_RELAXED);
      } else if (__atomic_compare_exchange_n(&state, &now, now | kForking, false, __ATOMIC_ACQUIRE,
                                             __ATOMIC_RELAXED)) {
        break;
      }
    }
    // A signal handler may fork in the middle of anything.
    uint32_t own = ForkExclusion::depth_ > 0;
    for (;;) {
      now = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
      if (now == (kForking | own)) return;
      WaitWhile(state, now);
    }
  }

  static void Parent() {
    fork_count.fetch_add(1);
    __atomic_fetch_and(&state, ~kForking, __ATOMIC_RELEASE);
    WakeAll(state);
  }

  static void Child() {
    fork_count.fetch_add(1);
    survivor = ThisThreadNumber();
    generation.fetch_add(1);
    __atomic_store_n(&state, ForkExclusion::depth_ > 0, __ATOMIC_RELEASE);
  }
};

namespace {

// Handlers of the loaded code itself come later, so theirs run before Prepare and after Parent and
// Child: they may load.
const ForkHandlers registered;

}  // namespace

void ForkExclusion::Enter() {
  uint32_t now = __atomic_load_n(&state, __ATOMIC_RELAXED);
  for (;;) {
    if (now & kForking) {
      WaitWhile(state, now);
      now = __atomic_load_n(&state, __ATOMIC_RELAXED);
    } else if (__atomic_compare_exchange_n(&state, &now, now + 1, true, __ATOMIC_ACQUIRE,
                                           __ATOMIC_RELAXED)) {
      return;
    }
  }
}

void ForkExclusion::Leave() {
  if (__atomic_sub_fetch(&state, 1, __ATOMIC_RELEASE) & kForking) WakeAll(state);
}

ForkInclusion::ForkInclusion() : depth_(ForkExclusion::depth_) {
  ForkExclusion::depth_ = 0;
  if (depth_ > 0) ForkExclusion::Leave();
}

ForkInclusion::~ForkInclusion() {
  if (depth_ > 0) ForkExclusion::Enter();
  ForkExclusion::depth_ = depth_;
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
