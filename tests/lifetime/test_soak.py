# SPDX-License-Identifier: Apache-2.0
"""Thousands of loads and hundreds of sessions come and go, and memory stays where it was."""

from __future__ import annotations

import pytest

from compilation import Compiler
from conftest import ADD, RunScript

# Each run happens in a process of its own, after a warm-up that fills every pool and cache. What is
# bounded is the growth of resident memory over all that follows: 2 MB is 250 bytes a load.
LOADS = """
import os
import sys
import tvm_ffi_object_loader as tol


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


session = tol.Session()
content = open(sys.argv[1], "rb").read()
for number in range(10_000):
    assert session.load(content)["add"](number, 1) == number + 1
    if number == 2_000:
        before, reserved = resident(), session.stats().bytes_reserved
stats = session.stats()
assert stats.bytes_reserved == reserved, (stats, reserved)
assert stats.dylibs == stats.objects == stats.symbols == 0, stats
print(resident() - before)
"""
SESSIONS = """
import os
import sys
import tvm_ffi_object_loader as tol


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


content = open(sys.argv[1], "rb").read()
for number in range(220):
    session = tol.Session()
    function = session.load(content)["add"]
    assert function(number, 1) == number + 1
    if number % 2:
        session.close()
    del session, function
    if number == 20:
        before = resident()
print(resident() - before)
"""
RESIDENT = """
import gc
import os
import sys
import tvm_ffi_object_loader as tol


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


content = open(sys.argv[1], "rb").read()
session = tol.Session()
assert session.load(content)["add"](1, 2) == 3
gc.collect()
before = resident()
for _ in range(6):
    kept = [session.load(content)["add"] for _ in range(2_000)]
    assert kept[1_999](1, 2) == 3
    kept.clear()
    gc.collect()
    print(resident() - before)
"""
# Four threads call while a fifth reloads. One function is called at the end alone.
RELOADS = """
import gc
import os
import sys
import threading
import tvm_ffi_object_loader as tol


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


content = open(sys.argv[1], "rb").read()
session = tol.Session()
dylib = session.load(content)
add, idle = dylib["add"], dylib["add"]
stop = threading.Event()
failures = []


def call():
    while not stop.is_set():
        if add(1, 2) != 3:
            failures.append(1)


threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for number in range(10_000):
    dylib.reload(content)
    if number == 2_000:
        before, reserved = resident(), session.stats().bytes_reserved
stop.set()
for thread in threads:
    thread.join()
stats = session.stats()
assert (failures, idle(1, 2)) == ([], 3)
assert (stats.bytes_reserved, stats.objects, stats.retained) == (reserved, 1, 0), stats
assert dylib.stats().loads == 10_001
print(resident() - before)
"""
CXX_ADD = """
#include "safe_call.h"
#include <stdexcept>
#include <string>
static std::string text(100, 'x');
struct Static { ~Static() { text.clear(); } };
EXPORT(add) {
  static Static object;
  try {
    if (num_args != 2) throw std::runtime_error(text);
  } catch (const std::exception&) {
    return -1;
  }
  RETURN(INT(0) + INT(1));
}
"""

MEGABYTE = 1 << 20

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("language", ["C", "C++"])
def test_ten_thousand_loads_in_one_session(
    compile: Compiler, run_script: RunScript, language: str
) -> None:
    path = compile(ADD) if language == "C" else compile.cxx(CXX_ADD)
    assert int(run_script(LOADS, path)) < 2 * MEGABYTE


@pytest.mark.parametrize("language", ["C", "C++"])
def test_ten_thousand_reloads_while_threads_call(
    compile: Compiler, run_script: RunScript, language: str
) -> None:
    path = compile(ADD) if language == "C" else compile.cxx(CXX_ADD)
    assert int(run_script(RELOADS, path)) < 2 * MEGABYTE


def test_two_hundred_sessions(compile: Compiler, run_script: RunScript) -> None:
    assert int(run_script(SESSIONS, compile.cxx(CXX_ADD))) < 2 * MEGABYTE


def test_two_thousand_modules_at_once_again_and_again(
    compile: Compiler, run_script: RunScript
) -> None:
    """Each time, what is resident is back to what it was before the first of them came.

    But for what the allocator keeps, which the first times bring and the later ones do not add to:
    a kilobyte kept of each module would be ten megabytes at the end.
    """
    growth = [int(bytes) for bytes in run_script(RESIDENT, compile.cxx(CXX_ADD)).split()]
    assert max(growth) < 3 * MEGABYTE, growth
    assert growth[-1] - growth[1] < MEGABYTE, growth
