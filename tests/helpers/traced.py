# SPDX-License-Identifier: Apache-2.0
"""Sources whose initializers and destructors are traced, for the tests of what unloads when."""

from __future__ import annotations

import tvm_ffi_object_loader as tol

TRACED = """
#include "safe_call.h"
#include "trace.h"
static int64_t value = 40;
__attribute__((constructor)) static void init(void) { trace(EVENT); }
__attribute__((destructor)) static void fini(void) { trace(-EVENT); value = 0; }
int64_t add_value(int64_t n) { return value + n; }
EXPORT(add_value) { RETURN(add_value(INT(0))); }
"""
USER = """
#include "safe_call.h"
#include "trace.h"
int64_t add_value(int64_t n);
__attribute__((destructor)) static void fini(void) { trace(-add_value(160)); }
EXPORT(use) { RETURN(2 * add_value(INT(0))); }
"""
OF_THREADS = """
#include "safe_call.h"
#include "trace.h"
struct Traced {
  explicit Traced(int event) : event_(event) { trace(event); }
  ~Traced() { trace(-event_); }
  int event_;
};
thread_local Traced first(1);
thread_local Traced second(2);
static Traced ordinary(3);
EXPORT(touch) {
  static thread_local Traced local(4);
  RETURN(first.event_ + second.event_ + local.event_);
}
"""


def sizes(session: tol.Session) -> dict[str, int]:
    stats = session.stats().as_dict()
    return {key: stats[key] for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data")}
