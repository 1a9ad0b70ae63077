// SPDX-License-Identifier: Apache-2.0
// Tells callgrind from when to when it counts; outside valgrind these do nothing.
#include <valgrind/callgrind.h>

void start_counting(void) { CALLGRIND_START_INSTRUMENTATION; }
void stop_counting(void) { CALLGRIND_STOP_INSTRUMENTATION; }
