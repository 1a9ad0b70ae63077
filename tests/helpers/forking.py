# SPDX-License-Identifier: Apache-2.0
"""How scripts fork."""

from __future__ import annotations

# The child runs `work` and has 60 seconds for it.
FORK = """
import ctypes, os, signal, sys, threading, time
import tvm_ffi
import tvm_ffi_object_loader as tol


def fork(work):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)
    try:
        work()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(pid):
    status = os.waitpid(pid, 0)[1]
    if status != 0:
        print(f"child ended with {status:#x}", file=sys.stderr, flush=True)
        os._exit(1)  # other threads may wait for ever


def exercise(session, path, number):
    dylib = session.load(path)
    assert dylib["set"](number) == number
    assert dylib["get"]() == number
    assert dylib["catches"](-1) == -1
    dylib.close()
"""
