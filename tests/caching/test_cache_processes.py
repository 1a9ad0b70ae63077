# SPDX-License-Identifier: Apache-2.0
"""ObjectCache among processes and threads: one compiles, the others wait, and any of them may die.

What is waited for is said by the processes on their standard outputs; no test measures time.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

import tvm_ffi_object_loader as tol
from conftest import RunScript

BEGIN = """
import os, signal, sys, threading, time
import tvm_ffi_object_loader as tol
from tvm_ffi_object_loader import _cache_folder
from pathlib import Path

def say(*words):  # a line, never two mixed
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

cache = tol.ObjectCache(sys.argv[1])
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a script in a process of its own, which has `BEGIN`'s names."""
    started = []

    def start(script: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BEGIN + script, *map(str, args)]
        process = subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has forked
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def cache(tmp_path: Path) -> tol.ObjectCache:
    return tol.ObjectCache(tmp_path / "cache")


def names(cache: tol.ObjectCache, folder: str) -> list[str]:
    return sorted(path.name for path in (cache.path / folder).iterdir())


def until(condition: Callable[[], bool]) -> None:
    last = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.001)


def test_of_eight_processes_one_compiles(cache: tol.ObjectCache, start: Start) -> None:
    script = """
def compile():
    say("compiled")
    time.sleep(0.2)
    return key.encode() * 1000

say("ready")
sys.stdin.readline()
for key in ("one", "two"):
    assert cache.get_or_compile(key, compile) == key.encode() * 1000
stats = cache.stats()
assert stats.hits + stats.misses == 2
say(stats.compiled)
"""
    processes = [start(script, cache.path) for _ in range(8)]
    assert [heard(process) for process in processes] == ["ready"] * 8
    for process in processes:
        go_on(process)
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sum(words.count("compiled") for words in said) == 2
    assert sum(int(words[-1]) for words in said) == 2
    assert names(cache, "flights") == names(cache, "writing") == []


def test_what_another_compiled_before_the_lock_was_had_is_not_compiled_again(
    cache: tol.ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight = cache._folder.flight

    def late(name: str) -> object:
        tol.ObjectCache(cache.path).get_or_compile("k", lambda: b"of the other")
        return flight(name)

    monkeypatch.setattr(cache._folder, "flight", late)
    assert cache.get_or_compile("k", lambda: b"of this one") == b"of the other"
    assert (cache.stats().compiled, cache.stats().hits, cache.stats().waits) == (0, 1, 0)


def test_what_killed_compilers_left_is_removed(cache: tol.ObjectCache, start: Start) -> None:
    script = "cache.get_or_compile('k', lambda: os.kill(os.getpid(), signal.SIGKILL))"
    assert start(script, cache.path).wait() == -signal.SIGKILL
    assert len(names(cache, "flights")) == 1

    def compile() -> bytes:
        assert len(names(cache, "flights")) == 2
        cache.clear()
        assert len(names(cache, "flights")) == 1  # this one's stays
        return b"data"

    assert cache.get_or_compile("other", compile) == b"data"
    assert names(cache, "flights") == []


WAITS = """
def tell():
    while not cache.stats().waits:
        time.sleep(0.001)
    say("waits")

threading.Thread(target=tell, daemon=True).start()
say(cache.get_or_compile("k", lambda: b"of the other").decode(), cache.stats().compiled)
"""


@pytest.mark.parametrize("has_forked", [False, True])
def test_where_the_one_is_killed_another_goes_on(
    cache: tol.ObjectCache, start: Start, has_forked: bool
) -> None:
    script = """
import warnings
warnings.simplefilter("ignore")  # of forks, with threads of libraries

def compile():
    if sys.argv[2] == "True" and os.fork() == 0:
        say("forked")
        time.sleep(1000)
    say("compiles")
    time.sleep(1000)

cache.get_or_compile("k", compile)
"""
    killed = start(script, cache.path, has_forked)
    for _ in range(1 + has_forked):
        assert heard(killed) in ("compiles", "forked")
    waiting = start(WAITS, cache.path)
    assert heard(waiting) == "waits"
    killed.kill()
    assert heard(waiting) == "of the other 1"
    assert names(cache, "flights") == []


def test_where_the_one_fails_another_goes_on(cache: tol.ObjectCache, start: Start) -> None:
    waiting = None

    def fail() -> bytes:
        nonlocal waiting
        waiting = start(WAITS, cache.path)
        assert heard(waiting) == "waits"
        raise ValueError("of the compiler")

    with pytest.raises(ValueError, match="of the compiler"):
        cache.get_or_compile("k", fail)
    assert waiting is not None
    assert heard(waiting) == "of the other 1"


KILLED = {
    "with half of it written": """
write = os.write
def half(fd, data):
    write(fd, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = half
""",
    "before the rename": """
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
""",
    "after the rename": """
replace = Path.replace
def kill(self, target):
    replace(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.replace = kill
""",
    "after the first eviction": """
unlink = Path.unlink
def kill(self, missing_ok=False):
    unlink(self)
    os.kill(os.getpid(), signal.SIGKILL)
Path.unlink = kill
""",
}


@pytest.mark.parametrize("when", KILLED)
def test_a_write_that_is_killed_leaves_nothing(tmp_path: Path, start: Start, when: str) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=4500)
    for key in ("a", "b", "c"):
        cache.put(key, key.encode() * 1000)
    cache.get("a")
    script = "cache = tol.ObjectCache(cache.path, max_bytes=4500)\n" + KILLED[when]
    killed = start(script + "cache.put('a', b'A' * 3000)", cache.path)
    assert killed.wait() == -signal.SIGKILL
    # There is the older one or the new one, or none, and nothing else.
    assert cache.get("a") in (b"a" * 1000, b"A" * 3000, None)
    assert cache.stats().put_aside == 0
    reading = tol.ObjectCache(cache.path, frozen=True)
    assert reading.get("a") == cache.get("a")
    cache.put("d", b"d" * 1000)
    assert names(cache, "writing") == []
    # What is kept of the bytes is right again: evictions begin where they should.
    for number in range(10):
        cache.put(f"{number}", bytes(900))
        with FileLock(cache.path / "lock"):
            state = (cache.path / "state").read_text().split()
            assert int(state[1]) == cache.stats().bytes <= 4500
    assert cache.stats().entries == 4


def test_many_writers_keep_the_limit(tmp_path: Path, start: Start) -> None:
    script = """
cache = tol.ObjectCache(cache.path, max_bytes=20_000)
for number in range(100):
    key = f"{sys.argv[2]}.{number}"
    assert cache.get_or_compile(key, key.encode) == key.encode()
    cache.put(key, bytes(500 + 13 * number))
assert not cache.stats().put_aside
"""
    cache = tol.ObjectCache(tmp_path / "cache")
    processes = [start(script, cache.path, number) for number in range(4)]
    looked = 0
    while any(process.poll() is None for process in processes) or not looked:
        with FileLock(cache.path / "lock"):
            sizes = [path.stat().st_size for path in cache.path.glob("[!f]*/*.o")]
        assert sum(sizes) <= 20_000
        looked += len(sizes) > 0
    assert [process.returncode for process in processes] == [0] * 4
    assert int((cache.path / "state").read_text().split()[1]) == cache.stats().bytes
    assert cache.stats().entries >= 9
    assert names(cache, "flights") == names(cache, "writing") == names(cache, "aside") == []


def test_of_eight_threads_one_compiles(cache: tol.ObjectCache) -> None:
    caches = [cache, tol.ObjectCache(cache.path)]
    compiled = []

    def compile() -> bytes:
        compiled.append(threading.get_ident())
        until(lambda: sum(cache.stats().waits for cache in caches) == 7)
        return b"data"

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(caches[n % 2].get_or_compile, "k", compile) for n in range(8)]
        assert [future.result() for future in asked] == [b"data"] * 8
    assert len(compiled) == 1
    assert sum(cache.stats().hits for cache in caches) == 7


def test_threads_that_compile_each_others_inputs_end(cache: tol.ObjectCache) -> None:
    barrier = threading.Barrier(2)

    def compile(name: str, needed: str) -> bytes:
        def outer() -> bytes:
            barrier.wait()
            return cache.get_or_compile(needed, needed.encode) + b" in " + name.encode()

        return cache.get_or_compile(name, outer)

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(compile, "one", "leaf"), pool.submit(compile, "two", "leaf")]
        assert [future.result() for future in asked] == [b"leaf in one", b"leaf in two"]


def test_waiting_can_be_interrupted(cache: tol.ObjectCache) -> None:
    other = tol.ObjectCache(cache.path)
    compiling, done = threading.Event(), threading.Event()

    def compile() -> bytes:
        compiling.set()
        done.wait()
        return b"data"

    def interrupt() -> None:
        until(lambda: other.stats().waits == 1)
        _thread.interrupt_main()

    # It may be ignored in this process, as in one that a shell has started in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(2) as pool:
            compiled = pool.submit(cache.get_or_compile, "k", compile)
            compiling.wait()
            pool.submit(interrupt)
            try:
                with pytest.raises(KeyboardInterrupt):
                    other.get_or_compile("k", lambda: b"not compiled")
            finally:
                done.set()
            assert compiled.result() == b"data"
    finally:
        signal.signal(signal.SIGINT, before)
    assert other.get("k") == b"data"
    assert names(cache, "flights") == []


def test_a_fork_in_compile_does_not_give_the_flight_back(
    tmp_path: Path, run_script: RunScript
) -> None:
    script = """
import warnings
warnings.simplefilter("ignore")

def compile():
    child = os.fork()
    if child == 0:
        return b"of the child"
    os.waitpid(child, 0)
    flight = cache._folder.flight(next((cache.path / "flights").iterdir()).name)
    assert not flight.begin()
    return b"of the parent"

data = cache.get_or_compile("k", compile)
if data == b"of the child":
    os._exit(0)
say(data, cache.get("k"))
"""
    assert run_script(BEGIN + script, tmp_path / "cache") == "b'of the parent' b'of the parent'\n"


def test_a_fork_while_others_compile_and_write(tmp_path: Path, run_script: RunScript) -> None:
    script = """
import warnings
warnings.simplefilter("ignore")
from tvm_ffi_object_loader import cache as module
compiling, done = threading.Event(), threading.Event()

def compile():
    compiling.set()
    done.wait()
    return b"of the parent"

def write():
    while not done.is_set():
        cache.put("other", b"data")
        cache.stats()

def count():
    compiling.wait()
    while not done.is_set():
        with module._lock:
            time.sleep(0.001)

threads = [threading.Thread(target=cache.get_or_compile, args=("k", compile)),
           threading.Thread(target=write), threading.Thread(target=count)]
for thread in threads:
    thread.start()
compiling.wait()
children = []
for number in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        cache.put("own", b"data")
        cache.stats()
        data = cache.get_or_compile("k", lambda: b"of a child")
        os._exit(data != b"of the parent")
    children.append(child)
done.set()
for child in children:
    assert os.waitpid(child, 0)[1] == 0
for thread in threads:
    thread.join()
say(cache.get("k"), cache.get("own"))
"""
    assert run_script(BEGIN + script, tmp_path / "cache") == "b'of the parent' b'data'\n"
