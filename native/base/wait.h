// SPDX-License-Identifier: Apache-2.0
//
// Waiting for a word of memory to change. Unlike a condition variable it has no state of its own
// that a fork could break. os/futex.cc has what the operating system does for it.
#ifndef OBJECT_LOADER_BASE_WAIT_H_
#define OBJECT_LOADER_BASE_WAIT_H_

#include <cstdint>
#include <functional>

namespace object_loader {

// Waits until `word` may have changed from `value`, or somebody called WakeAll.
void WaitWhile(const uint32_t& word, uint32_t value);
void WakeAll(const uint32_t& word);

// For a thread that waits for so little that it does not sleep: lets others go first.
void Yield();

// Asked now and then by whoever waits for something that may never end: whether to go on. It is
// called without a lock.
using KeepWaiting = std::function<bool()>;

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_WAIT_H_
