# SPDX-License-Identifier: Apache-2.0
"""Threads of the tests: many that do the same at once, and one that does as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

THREADS = 8


def run_in_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Run ``work(number)`` in `count` threads at once and raise the first of their errors."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Worker:
    """A thread that runs functions one by one, until it is told to end."""

    def __init__(self) -> None:
        self._work: Callable[[], object] | None = None
        self._wake = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._result: object = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if self._work is None:
                return
            self._result = self._work()
            self._work = None
            self._done.release()

    def __call__(self, work: Callable[[], object]) -> object:
        self._work = work
        self._wake.release()
        self._done.acquire()
        result, self._result = self._result, None
        return result

    def end(self) -> None:
        if self._thread.is_alive():
            self._wake.release()
            self._thread.join()
            # Python's part of the thread has ended; destructors run after that.
            while Path(f"/proc/self/task/{self._thread.native_id}").exists():
                time.sleep(0.001)
