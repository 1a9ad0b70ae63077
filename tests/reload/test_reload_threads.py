# SPDX-License-Identifier: Apache-2.0
"""`Dylib.reload` while others call, load, close and fork."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from reloading import version
from traced import sizes


class Call:
    """A call in a thread of its own, which returns when it is told to."""

    def __init__(self, function: Callable[[int], int], pool: ThreadPoolExecutor) -> None:
        self._flag = (ctypes.c_int64 * 2)()
        self._result: Future[int] = pool.submit(function, ctypes.addressof(self._flag))
        while not self._flag[0]:
            assert not self._result.done(), self._result.result()

    def end(self) -> int:
        self._flag[1] = 1
        return self._result.result()


Begin = Callable[[Callable[[int], int]], Call]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def begin(pool: ThreadPoolExecutor) -> Iterator[Begin]:
    """Begin calls, which end with the test at the latest."""
    calls: list[Call] = []

    def begin(function: Callable[[int], int]) -> Call:
        calls.append(Call(function, pool))
        return calls[-1]

    yield begin
    for call in calls:
        call.end()


def test_a_call_finishes_in_the_code_that_it_began_in(
    session: tol.Session, compile: Compiler, trace: Trace, begin: Begin
) -> None:
    dylib = session.load(version(compile, 1), name="kernels")
    before = sizes(session)["objects"]
    wait = dylib["wait"]
    old = begin(wait)
    dylib.reload(version(compile, 2))
    new = begin(wait)
    assert trace.take() == [1, 2]
    retained = session.stats().retained_dylibs
    assert [(kept.name, kept.held_by.calls) for kept in retained] == [("kernels", 1)]
    assert dylib["number"]() == 2
    assert old.end() == 1
    # Nobody else does anything: the call that was the last one has unloaded it.
    assert trace.take() == [-1]
    assert sizes(session)["objects"] == before
    dylib.reload(version(compile, 3))
    assert trace.take() == [3]
    assert new.end() == 2
    assert trace.take() == [-2]


def test_the_last_of_several_calls_unloads(
    session: tol.Session, compile: Compiler, trace: Trace, begin: Begin
) -> None:
    dylib = session.load(version(compile, 1))
    calls = [begin(dylib["wait"]) for _ in range(5)]
    dylib.reload(version(compile, 2))
    for call in calls[:-1]:
        call.end()
    assert trace.take() == [1, 2]
    calls[-1].end()
    assert trace.take() == [-1]


def test_calls_within_the_call_do_not_end_it(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    dylib = session.load(version(compile, 1))
    number, call = dylib["number"], dylib["call"]
    seen: list[int] = []

    def reload() -> int:
        dylib.reload(version(compile, 2))
        seen.extend(number() for _ in range(100))
        seen.append(len(trace.take()))
        return 0

    assert call(tvm_ffi.convert(reload)) == 10
    assert seen == [2] * 101
    assert trace.take() == [-1]


def test_threads_call_while_another_one_reloads(
    session: tol.Session, compile: Compiler, pool: ThreadPoolExecutor
) -> None:
    paths = [version(compile, number) for number in (1, 2)]
    dylib = session.load(paths[0])
    number, idle = dylib["number"], dylib["number"]
    caller = session.load(version(compile, 7))["call"]
    stop = threading.Event()

    def call() -> int:
        calls = 0
        while not stop.is_set():
            assert number() in (1, 2)
            assert caller(number) in (71, 72)
            calls += 2
        return calls

    running = [pool.submit(call) for _ in range(4)]
    try:
        for i in range(1000):
            dylib.reload(paths[(i + 1) % 2])
    finally:
        stop.set()
    assert all(each.result() > 0 for each in running)
    assert session.stats().retained == 0
    assert idle() == number() == 1


def test_threads_reload_and_load_at_once(
    session: tol.Session, compile: Compiler, pool: ThreadPoolExecutor, trace: Trace
) -> None:
    paths = [version(compile, number) for number in range(1, 9)]
    extra = compile("int extra = 1;\n")
    dylib = session.load(paths[0])
    number = dylib["number"]
    barrier = threading.Barrier(8)

    def work(path: Path) -> None:
        barrier.wait()
        for _ in range(50):
            dylib.reload(path)
            assert 1 <= number() <= 8
            with contextlib.suppress(tol.DuplicateSymbolError):  # another thread has loaded it
                dylib.load(extra)
            assert set(dylib.functions) >= {"number", "wait", "call"}
            assert dylib.lookup("number")

    for each in [pool.submit(work, path) for path in paths]:
        each.result()
    events = trace.take()
    loaded, unloaded = (sorted(abs(e) for e in events if (e > 0) is sign) for sign in (True, False))
    assert len(loaded) == len(unloaded) + 1 == 401
    dylib.close()
    assert sorted(unloaded + [-e for e in trace.take()]) == loaded
    assert sizes(session)["objects"] == 0


def test_close_waits_for_calls_of_former_versions(
    session: tol.Session,
    compile: Compiler,
    pool: ThreadPoolExecutor,
    trace: Trace,
    begin: Begin,
) -> None:
    dylib = session.load(version(compile, 1))
    call = begin(dylib["wait"])
    dylib.reload(version(compile, 2))
    for close in (dylib.close, session.close):
        with pytest.raises(TimeoutError, match="is still running"):
            close(timeout=0.01)
        assert dylib["number"]() == 2
    closing = pool.submit(dylib.close)
    assert not closing.done()
    call.end()
    closing.result()
    assert sorted(trace.take()) == [-2, -1, 1, 2]  # the two threads unload one each
    assert dylib.closed


def test_a_session_that_closes_waits_for_calls_of_former_versions(
    compile: Compiler, pool: ThreadPoolExecutor, trace: Trace, begin: Begin
) -> None:
    session = tol.Session()
    dylib = session.load(version(compile, 1))
    call = begin(dylib["wait"])
    dylib.reload(version(compile, 2))
    closing = pool.submit(session.close)
    call.end()
    closing.result()
    assert sorted(trace.take()) == [-2, -1, 1, 2]


def test_closing_and_reloading_at_once(
    compile: Compiler, pool: ThreadPoolExecutor, trace: Trace
) -> None:
    paths = [version(compile, number) for number in (1, 2)]
    for close_session in (False, True) * 20:
        session = tol.Session()
        dylib = session.load(paths[0])
        number = dylib["number"]
        barrier = threading.Barrier(3)

        def close(
            barrier: threading.Barrier = barrier,
            what: tol.Session | tol.Dylib = session if close_session else dylib,
        ) -> None:
            barrier.wait()
            what.close()

        def reload(barrier: threading.Barrier = barrier, dylib: tol.Dylib = dylib) -> None:
            barrier.wait()
            with pytest.raises(tol.SessionClosedError):
                collections.deque(map(dylib.reload, itertools.cycle(paths)), maxlen=0)

        work = [pool.submit(close), pool.submit(reload), pool.submit(reload)]
        for each in work:
            each.result()
        assert dylib.closed
        with pytest.raises(tol.SessionClosedError):
            number()
        events = trace.take()
        assert sorted(e for e in events if e > 0) == sorted(-e for e in events if e < 0)
        assert sizes(session)["objects"] == 0
        del number, dylib, session, work


def test_a_child_of_a_fork_reloads_and_goes_on(compile: Compiler, run_script: RunScript) -> None:
    script = """
import os, sys, threading
import tvm_ffi_object_loader as tol

dylib = tol.Session().load(sys.argv[1])
number = dylib["number"]
stop = threading.Event()


def reload():
    while not stop.is_set():
        dylib.reload(sys.argv[2])
        dylib.reload(sys.argv[1])


def call():
    while not stop.is_set():
        assert number() in (1, 2)


threads = [threading.Thread(target=work) for work in (reload, call, call)]
for thread in threads:
    thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        assert number() in (1, 2)
        for path, result in ((sys.argv[2], 2), (sys.argv[1], 1)):
            dylib.reload(path)
            assert number() == result
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
"""
    run_script(script, version(compile, 1), version(compile, 2))
