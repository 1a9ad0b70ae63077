# SPDX-License-Identifier: Apache-2.0
"""Sources for tests of memory: what their code has in it takes each kind of memory."""

from __future__ import annotations

CXX = """
#include "safe_call.h"
#include <stdexcept>
#include <string>
static std::string text(100, 'x');
struct Static { ~Static() { text.clear(); } };
EXPORT(add) {
  static Static object;
  try {
    if (INT(0) < 0) throw std::runtime_error(text);
  } catch (const std::exception&) {
    RETURN(-1);
  }
  RETURN(INT(0) + INT(1));
}
"""
THREAD_LOCAL = """
#include "safe_call.h"
_Thread_local int64_t last = 40;
EXPORT(add) { last = INT(0) + INT(1); RETURN(last); }
"""


# More than 256 KiB of constants are ordinary memory, protected once written.
LARGE_CONSTANT = """
extern "C" {
extern const char large_constant[1 << 20];
const char large_constant[1 << 20] = {7};
}
"""
