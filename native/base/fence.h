// SPDX-License-Identifier: Apache-2.0
//
// Two fences for a store and the load after it, of which one thread's is dear and the others' cost
// nothing (membarrier(2): the same idea as userspace RCU). Many threads store, LightFence(), load;
// one stores, HeavyFence(), loads: it sees what they stored, or they see what it did. That holds on
// processors that reorder more than x86-64, too: membarrier has every thread pass a full fence.
// os/fence.cc has what the operating system does for it.
#ifndef OBJECT_LOADER_BASE_FENCE_H_
#define OBJECT_LOADER_BASE_FENCE_H_

#include <atomic>

namespace object_loader {

// Where the system can't fence all threads at once, each of them needs a fence of its own.
inline std::atomic<bool> needs_light_fences{true};

inline void LightFence() {
  if (__builtin_expect(needs_light_fences.load(std::memory_order_relaxed), false)) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  } else {
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
}

void HeavyFence();

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_FENCE_H_
