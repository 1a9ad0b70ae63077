// SPDX-License-Identifier: Apache-2.0
//
// A fence for all threads of the process at once (membarrier(2)): what one of them has to pay, so
// that the others need none.
#ifndef OBJECT_LOADER_OS_FENCE_H_
#define OBJECT_LOADER_OS_FENCE_H_

namespace object_loader {

// Whether the kernel has it. Where it has not, every thread needs a fence of its own.
bool CanFenceAllThreads();
// Must not be called where the kernel has none.
void FenceAllThreads();

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_FENCE_H_
