# SPDX-License-Identifier: Apache-2.0
"""docs/watching.md: what is saved is compiled and reloaded, and what is wrong changes nothing."""

from __future__ import annotations

import contextlib
import importlib
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from packages import requires
from pages import Page

PAGE = Page("docs/watching.md")
pytestmark = [PAGE.needed, requires("watchfiles", "watchfiles")]


class Watched:
    """A function of a source that is watched, and what the watcher reports."""

    def __init__(self, module: ModuleType, folder: Path) -> None:
        self.module, self.folder = module, folder
        self.source = folder / "add.c"
        self.original = self.source.read_text()
        self.reports: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.session = tol.Session()
        self.dylib = self.session.load(module.compile_sources([self.source]))
        self.add = self.dylib["add"]

    @contextlib.contextmanager
    def watching(self, **options: Any) -> Iterator[None]:
        with self.module.watching(
            self.dylib, [self.source], **{"report": self.reports.put, **options}
        ):
            assert self.report() == "loaded"  # from here on nothing is missed
            yield

    def report(self) -> str:
        return self.reports.get(timeout=60)

    def with_(self, operator: str) -> str:
        """Return the source of the function with another operator."""
        text = re.sub(r"v_int64 \+ args", f"v_int64 {operator} args", self.original)
        assert text != self.original
        return text


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    PAGE.write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    threads, watches = threading.active_count(), inotify_files()
    watched = Watched(importlib.import_module("watch"), tmp_path)
    try:
        with watched.session:
            yield watched
        assert threading.active_count() == threads
        end = time.monotonic() + 60
        while inotify_files() != watches:  # a thread of watchfiles closes them, on its way out
            assert time.monotonic() < end, "a folder is still watched"
    finally:
        del sys.modules["watch"]


def inotify_files() -> int:
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += "inotify" in str(path.readlink())
    return count


def test_the_example(watched: Watched) -> None:
    calls = []
    PAGE.run({"serve": lambda add: calls.append(add(1, 2))})
    assert calls == [3]


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_another_file(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def deleted_first(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize("save", [in_place, by_another_file, deleted_first])
def test_what_is_saved_is_called(watched: Watched, save: Callable[[Path, str], None]) -> None:
    with watched.watching():
        for operator, result in (("*", 6), ("-", -1)):
            save(watched.source, watched.with_(operator))
            while (report := watched.report()) != "loaded":
                assert "add.c" in report  # it was looked for while it was not there
            assert watched.add(2, 3) == result


def test_what_was_saved_before_the_watcher_was_there(watched: Watched) -> None:
    watched.source.write_text(watched.with_("*"))
    with watched.watching():
        assert watched.add(2, 3) == 6


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("int add(", "not compiled:\nadd.c:"),
        ("extern int nowhere; int* f(void) { return &nowhere; }", "not loaded: add.o: undefined"),
        (None, "not compiled:\ncc: "),
    ],
)
def test_what_is_wrong_keeps_the_old_code(watched: Watched, wrong: str | None, why: str) -> None:
    watched.source = Path("add.c")
    with watched.watching():
        if wrong is None:
            watched.source.unlink()
        else:
            watched.source.write_text(wrong)
        report = watched.report()
        assert report.startswith(why) or "No such file" in report
        assert watched.add(2, 3) == 5
        watched.source.write_text(watched.with_("*"))
        assert watched.report() == "loaded"
        assert watched.add(2, 3) == 6


def test_a_half_written_object_is_read_again(watched: Watched, compile: Compiler) -> None:
    """What a build writes is watched instead of a source."""
    whole = Path(watched.module.compile_sources([watched.source])[0]).read_bytes()
    watched.source = watched.folder / "built.o"
    watched.source.write_bytes(whole)
    with watched.watching(build=list):
        watched.source.write_bytes(whole[:100])
        assert watched.report().startswith("not loaded: ")
        assert watched.add(2, 3) == 5
        times = compile(watched.with_("*"), name="times")
        shutil.copy(times, watched.source)
        while watched.report() != "loaded":
            pass
        assert watched.add(2, 3) == 6


def test_other_files_are_nothing_to_it(watched: Watched) -> None:
    import watchfiles

    builds = []

    def build(sources: list[Path]) -> Any:
        builds.append(sources)
        return watched.module.compile_sources(sources)

    others = watchfiles.watch(
        watched.folder, stop_event=threading.Event(), yield_on_timeout=True, rust_timeout=200
    )
    with contextlib.closing(others), watched.watching(build=build):
        assert any(not next(others) for _ in range(20))
        (watched.folder / "other.c").write_text("int other;\n")
        (watched.folder / "add.h").touch()
        assert any(next(others) for _ in range(20))
        by_another_file(watched.source, watched.with_("*"))
        assert watched.report() == "loaded"
    assert builds == [[watched.source]] * 2


def test_what_is_saved_while_it_compiles(watched: Watched) -> None:
    begun, go_on = threading.Event(), threading.Event()
    go_on.set()

    def build(sources: list[Path]) -> Any:
        objects = watched.module.compile_sources(sources)
        begun.set()
        assert go_on.wait(60)
        return objects

    with watched.watching(build=build):
        begun.clear()
        go_on.clear()
        watched.source.write_text(watched.with_("*"))
        assert begun.wait(60)
        watched.source.write_text(watched.with_("-"))
        go_on.set()
        assert watched.report() == "loaded"
        assert watched.report() == "loaded"
        assert watched.add(2, 3) == -1


def test_nothing_is_loaded_after_the_end(watched: Watched) -> None:
    with pytest.raises(RuntimeError, match="the program's own"), watched.watching():
        raise RuntimeError("the program's own")
    watched.source.write_text(watched.with_("*"))
    assert watched.add(2, 3) == 5
    assert watched.reports.empty()


def test_a_bug_in_the_build_ends_the_thread_alone(watched: Watched) -> None:
    """A watcher that cannot go on says why, as any thread does."""
    raised = []

    def build(sources: list[Path]) -> Any:
        raise subprocess.SubprocessError("a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda hook: raised.append(hook.exc_value))
        with watched.module.watching(watched.dylib, [watched.source], build=build):
            for thread in threading.enumerate():
                if thread is not threading.current_thread() and not thread.daemon:
                    thread.join(60)
    assert [str(error) for error in raised] == ["a bug"]
    assert watched.add(2, 3) == 5
