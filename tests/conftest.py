# SPDX-License-Identifier: Apache-2.0
"""Fixtures: compiled objects, a session, scripts in a process of their own."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# What these assert is told in full, too.
pytest.register_assert_rewrite(
    *("agreement", "archives", "exec_models", "pages", "partial_links", "refusal", "scripts"),
    *("section_groups", "section_headers", "symbol_versions", "throwers"),
)

import tvm_ffi_object_loader as tol
from archives import make_archive as make_archive
from compilation import Compiler
from embedded_modules import factor_kind as factor_kind
from processors import EMULATED
from ran import pytest_terminal_summary as pytest_terminal_summary
from refusal import Refusal
from traced import TRACED

ADD = """
#include "safe_call.h"
EXPORT(add) { RETURN(INT(0) + INT(1)); }
"""


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of a run share what they compile."""
    if "COMPILED_OBJECTS" not in os.environ:
        folder = tempfile.mkdtemp(prefix="compiled-objects-")
        os.environ["COMPILED_OBJECTS"] = folder

        def remove() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            os.environ.pop("COMPILED_OBJECTS", None)

        config.add_cleanup(remove)


def pytest_collection_finish() -> None:
    """Let collections, of which tests make thousands, leave out what is there before the first."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def compile(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Compile a source to an object file, or link objects as the oracle does."""
    return Compiler(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def add_object(compile: Compiler) -> Path:
    """Return an object that exports ``add``, an addition of two integers."""
    return compile(ADD, name="add")


@pytest.fixture(scope="session")
def traced(compile: Compiler) -> Path:
    """Return an object that traces 1 when it is loaded and -1 when it is unloaded."""
    return compile(TRACED, "-O2", "-fPIC", "-DEVENT=1", name="traced")


@pytest.fixture
def session() -> Iterator[tol.Session]:
    """Return a session that is closed after the test.

    Values and errors that loaded code made have their deleters there, so those that the test left
    in reference cycles are collected first.
    """
    with tol.Session() as session:
        yield session
        gc.collect()


@pytest.fixture
def refusal(add_object: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Refusal]:
    """Expect loads to be refused, and the session to go on working after the last of them."""
    refusal = Refusal(add_object, capfd)
    yield refusal
    assert refusal.session.load(add_object)["add"](2, 2) == 4
    refusal.session.close()


@pytest.fixture
def nothing_received() -> Iterator[None]:
    """Let nothing be there before and after the test that was received from another process."""

    def close() -> None:
        # Few tests need it.
        received = sys.modules.get("tvm_ffi_object_loader._received")
        if received is not None and received._session is not None:
            received._session.close()

    close()
    yield
    close()


class Trace:
    """What the sources that include trace.h appended since the last call of `take`."""

    def __init__(self) -> None:
        self._events = (ctypes.c_int64 * 65536)()
        self._taken = 0

    @property
    def address(self) -> int:
        return ctypes.addressof(self._events)

    def take(self) -> list[int]:
        # Only what appends changes the count, from any thread.
        before, self._taken = self._taken, self._events[0]
        return self._events[before + 1 : self._taken + 1]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Record what loaded code passes to ``trace(n)`` of trace.h."""
    trace = Trace()
    monkeypatch.setenv("OBJECT_TRACE", str(trace.address))
    return trace


RunScript = Callable[..., str]
SLOWER = 8 if EMULATED else 1
# CPython warns of a fork beside other threads, since 3.12, which is what scripts are about.
FORK_WITH_THREADS = "ignore:This process (pid=:DeprecationWarning"


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run Python source in a process of its own; it must end with 0 and an empty stderr."""

    def run(source: str, *args: object, timeout: float = 300, **env: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(source)
        result = subprocess.run(
            [sys.executable, "-W", FORK_WITH_THREADS, str(path), *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout * SLOWER,
            env={**os.environ, **env},
        )
        assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
        return result.stdout

    return run
