// SPDX-License-Identifier: Apache-2.0
//
// Waiting for a word of memory to change. Unlike a condition variable it has no state of its own
// that a fork could break. os/futex.cc has what the operating system does for it.
#ifndef OBJECT_LOADER_BASE_WAIT_H_
#define OBJECT_LOADER_BASE_WAIT_H_

#include <cstdint>

namespace object_loader {

// Waits until `word` may have changed from `value`, or somebody called WakeAll.
void WaitWhile(const uint32_t& word, uint32_t value);
void WakeAll(const uint32_t& word);

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_WAIT_H_
