// SPDX-License-Identifier: Apache-2.0
#include "os/fence.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace object_loader {

namespace {

int MemoryBarrier(int command) { return static_cast<int>(syscall(__NR_membarrier, command, 0, 0)); }

}  // namespace

bool CanFenceAllThreads() {
  int supported = MemoryBarrier(MEMBARRIER_CMD_QUERY);
  return supported >= 0 && (supported & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0;
}

// A process has to register first. That can take the kernel milliseconds, so it waits for the first
// fence; a forked child may have to do it anew.
void FenceAllThreads() {
  if (MemoryBarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0) return;
  MemoryBarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
  MemoryBarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

}  // namespace object_loader
