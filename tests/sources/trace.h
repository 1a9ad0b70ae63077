// SPDX-License-Identifier: Apache-2.0
// trace(n) appends n to the int64 array whose address is in the environment variable OBJECT_TRACE
// (its first element counts the others), so that what runs at load and unload can be compared. Any
// thread may call it.
#ifndef TESTS_TRACE_H_
#define TESTS_TRACE_H_

#include <stdint.h>
#include <stdlib.h>

__attribute__((unused)) static void trace(int64_t event) {
  const char* address = getenv("OBJECT_TRACE");
  if (address) {
    int64_t* events = (int64_t*)strtoull(address, 0, 10);
    events[__atomic_add_fetch(&events[0], 1, __ATOMIC_SEQ_CST)] = event;
  }
}

#endif  // TESTS_TRACE_H_
