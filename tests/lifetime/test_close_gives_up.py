# SPDX-License-Identifier: Apache-2.0
"""`close` that does not wait for ever: timeouts, interrupts, and what it need not wait for."""

from __future__ import annotations

import pytest

from closing import run
from compilation import Compiler
from conftest import RunScript
from embedded_modules import library_bin

GIVES_UP = """
wait = a["wait"]
thread = start(lambda: wait(ctypes.addressof(flag)))
spin(lambda: flag[0])
what = {"a": a, "session": session}[sys.argv[2]]
for timeout in (0, 0.05):
    stats = session.stats()
    try:
        what.close(timeout=timeout)
        raise AssertionError("closed")
    except TimeoutError as error:
        assert "dylib 'a'" in str(error) and str(timeout) in str(error), error
        assert "nothing was closed" in str(error)
    # All is as it was.
    assert session.stats() == stats
    assert not session.closed and not a.closed and not b.closed
    assert a["add"](1, 2) == b["add"](1, 2) == 3
    assert wait is not None and session["a"] == a
    session.load(path, name="c").close(timeout=1)
flag[1] = 7
thread.join()
assert results == [7]
what.close(timeout=30)
assert a.closed and (b.closed == session.closed == (sys.argv[2] == "session"))
what.close(timeout=0)
try:
    wait(0)
    raise AssertionError("called")
except tol.SessionClosedError:
    pass
"""


@pytest.mark.parametrize("what", ["a", "session"])
def test_close_gives_up_after_its_timeout(
    compile: Compiler, run_script: RunScript, what: str
) -> None:
    run(run_script, compile, GIVES_UP, what)


INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)
wait = a["wait"]
thread = start(lambda: wait(ctypes.addressof(flag)))
spin(lambda: flag[0])
what = {"a": a, "session": session}[sys.argv[2]]
main = threading.main_thread()


def interrupt():
    time.sleep(0.1)
    signal.pthread_kill(main.ident, signal.SIGINT)


start(interrupt)
try:
    what.close(*([60] if sys.argv[3] else []))
    raise AssertionError("closed")
except KeyboardInterrupt:
    pass
assert not session.closed and not a.closed
assert a["add"](1, 2) == 3
flag[1] = 7
thread.join()
what.close()
assert a.closed
"""


@pytest.mark.parametrize("what", ["a", "session"])
@pytest.mark.parametrize("timeout", ["", "with a timeout"])
def test_waiting_can_be_interrupted(
    compile: Compiler, run_script: RunScript, what: str, timeout: str
) -> None:
    run(run_script, compile, INTERRUPTED, what, timeout)


TWO_CLOSE = """
wait = a["wait"]
call = start(lambda: wait(ctypes.addressof(flag)))
spin(lambda: flag[0])
closing = start(session.close)
spin(lambda: session.closed)
try:
    session.close(timeout=0.05)
    raise AssertionError("closed")
except TimeoutError:
    pass
assert session.closed  # by the other thread, which goes on
flag[1] = 7
closing.join()
call.join()
assert results == [7, None] or results == [None, 7], results
assert session.closed and a.closed and b.closed
try:
    session.load(path)
    raise AssertionError("loaded")
except tol.SessionClosedError:
    pass
"""


def test_a_close_that_gives_up_leaves_another_one_alone(
    compile: Compiler, run_script: RunScript
) -> None:
    run(run_script, compile, TWO_CLOSE)


REFUSED = """
add, ended = a["add"], []


def hammer():
    while not ended:
        try:
            add(1, 2)
        except tol.SessionClosedError:
            pass


thread = start(hammer)
try:
    # What is refused is no call that runs.
    for timeout in (0.2, 0.2, 0.2):
        a.close(timeout=timeout)
    assert a.closed
    session.close(timeout=1)
    assert session.closed and b.closed
finally:
    ended.append(True)
    thread.join()
"""


def test_refused_calls_are_not_waited_for(compile: Compiler, run_script: RunScript) -> None:
    run(run_script, compile, REFUSED)


LOADS = """
import struct

begun, go_on = threading.Event(), threading.Event()


def load_part(content):
    begun.set()
    go_on.wait(50)
    return b.module


tvm_ffi.register_global_func("ffi.Module.load_from_bytes.waits", load_part)
thread = start(lambda: a.load(sys.argv[2]))
assert begun.wait(50)
for what in (a, session):
    try:
        what.close(timeout=0.05)
        raise AssertionError("closed")
    except TimeoutError:
        pass
assert not a.closed and not session.closed
go_on.set()
thread.join()
assert results == [a]
a.close(timeout=50)
"""


def test_a_load_that_does_not_end_is_not_waited_for_longer(
    compile: Compiler, run_script: RunScript
) -> None:
    blob = library_bin([[1], []], [("_lib", None), ("waits", b"x")])
    run(run_script, compile, LOADS, compile(blob))


TIMEOUTS = """
for close in (a.close, session.close, tol.ObjectLoader().close):
    for wrong, error in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        try:
            close(timeout=wrong)
            raise AssertionError(wrong)
        except error as caught:
            assert "timeout" in str(caught)
assert not a.closed and not session.closed
a.close(None)
b.close(10**400)
session.close(True)
"""


def test_timeouts_that_are_none(compile: Compiler, run_script: RunScript) -> None:
    run(run_script, compile, TIMEOUTS)
