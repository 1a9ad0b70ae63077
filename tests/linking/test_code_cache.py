# SPDX-License-Identifier: Apache-2.0
"""Code that is loaded where other code was runs, and not what a cache has kept of that."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler

LOADS = 100


class Caller:
    """A thread that calls what it is given."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tol.Dylib | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (dylib := self._calls.get()) is not None:
            self._results.put(dylib["answer"]())
            del dylib

    def __call__(self, dylib: tol.Dylib) -> int:
        self._calls.put(dylib)
        return self._results.get()

    def end(self) -> None:
        self._calls.put(None)
        self._thread.join()


@pytest.fixture
def callers() -> Iterator[list[Caller]]:
    callers = [Caller() for _ in range(3)]
    yield callers
    for caller in callers:
        caller.end()


def answers(compile: Compiler, *numbers: int) -> list[bytes]:
    """Return objects with a function each, of one size, which return these."""
    source = '#include "safe_call.h"\nEXPORT(answer) {{ RETURN({}); }}\n'
    return [compile(source.format(number)).read_bytes() for number in numbers]


def test_code_at_one_address(
    compile: Compiler, session: tol.Session, callers: list[Caller]
) -> None:
    objects = answers(compile, 1001, 2002)
    addresses = set()
    wrong = []
    for i in range(LOADS):
        dylib = session.load(objects[i % 2])
        addresses.add(dylib.lookup("__tvm_ffi_answer"))
        expected = [1001, 2002][i % 2]
        results = [dylib["answer"](), *(caller(dylib) for caller in callers)]
        if results != [expected] * 4:
            wrong.append((i, results))
        dylib.close()
    assert wrong == []
    assert len(addresses) < LOADS // 2, "the loads are to lie where others were"


def test_code_beside_code_that_stays(compile: Compiler, session: tol.Session) -> None:
    objects = answers(compile, 1, 2, 3, 4)
    stays = session.load(objects[0])
    for i in range(LOADS):
        with session.load(objects[1 + i % 3]) as dylib:
            assert (stays["answer"](), dylib["answer"]()) == (1, 2 + i % 3)
