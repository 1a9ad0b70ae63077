// SPDX-License-Identifier: Apache-2.0
#include "base/fence.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace object_loader {

namespace {

int MemoryBarrier(int command) { return static_cast<int>(syscall(__NR_membarrier, command, 0, 0)); }

bool FenceAllThreads() {
  if (MemoryBarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0) return true;
  // A process has to register first. That can take the kernel milliseconds, so it waits for the
  // first fence; a forked child may have to do it anew.
  return MemoryBarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
         MemoryBarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
}

struct Query {
  Query() {
    int supported = MemoryBarrier(MEMBARRIER_CMD_QUERY);
    needs_light_fences = supported < 0 || (supported & MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
  }
};
const Query query;

}  // namespace

void HeavyFence() {
  if (!needs_light_fences) {
    if (FenceAllThreads()) return;
    // A filter of system calls came meanwhile. Whoever did without a fence has stored long before
    // this is over.
    needs_light_fences = true;
    timespec time{0, 10000000};
    nanosleep(&time, nullptr);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace object_loader
