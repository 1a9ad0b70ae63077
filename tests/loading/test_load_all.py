# SPDX-License-Identifier: Apache-2.0
"""`Session.load_all`: many loads at a time, in order, whatever becomes of some of them."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler

Meets: TypeAlias = tuple[Path, Callable[[Callable[[], object]], None]]

NUMBER = """
#include "safe_call.h"
EXPORT(number) { RETURN(NUMBER); }
"""
# Waits, in its initializer, for the Python function `testing.meet`.
MEETS = """
#include "safe_call.h"
__attribute__((constructor)) static void init(void) {
  TVMFFIByteArray name = {"testing.meet", 12};
  TVMFFIObjectHandle function;
  TVMFFIAny result = {0};
  if (TVMFFIFunctionGetGlobal(&name, &function) || !function) return;
  TVMFFIFunctionCall(function, 0, 0, &result);
  TVMFFIObjectDecRef(function);
}
EXPORT(number) { RETURN(1); }
"""


@pytest.fixture
def kernels(compile: Compiler) -> list[Path]:
    """Return objects that each export ``number``, which returns the object's place here."""
    return [compile(NUMBER, f"-DNUMBER={number}", name=f"kernel{number}") for number in range(12)]


def numbers(dylibs: list[tol.Dylib]) -> list[int]:
    return [dylib["number"]() for dylib in dylibs]


@pytest.mark.parametrize("threads", [None, 1, 2, 5, 100])
def test_the_dylibs_come_in_order(
    session: tol.Session, kernels: list[Path], threads: int | None
) -> None:
    many = kernels * 25  # 300
    dylibs = session.load_all(many, threads=threads)
    assert numbers(dylibs) == list(range(12)) * 25
    assert len(set(dylibs)) == len(session.dylibs) == 300


def test_each_form_that_load_takes(session: tol.Session, kernels: list[Path]) -> None:
    forms: list[Any] = [kernels[0], str(kernels[1]), kernels[2].read_bytes(), [kernels[3]]]
    assert numbers(session.load_all(forms)) == [0, 1, 2, 3]
    assert numbers(session.load_all(iter(forms), threads=2)) == [0, 1, 2, 3]
    assert session.load_all([]) == session.load_all({}) == []


def test_names_and_what_has_them(session: tol.Session, kernels: list[Path]) -> None:
    first = session.load_all({"a": kernels[0], "b": kernels[1]})
    assert list(session.dylibs.values()) == first
    second = session.load_all({"b": kernels[2]}, replace=True)
    assert session["b"] is second[0]
    assert numbers(first) == [0, 1]


def test_options_are_those_of_load(session: tol.Session, compile: Compiler) -> None:
    base = session.load(compile("int base(void) {\n  return 5;\n}", name="base"))
    needs_it = compile(
        '#include "safe_call.h"\nint base(void); EXPORT(number) { RETURN(base()); }', name="user"
    )
    assert numbers(session.load_all([needs_it, needs_it], link_order=iter([base]))) == [5, 5]
    with pytest.raises(tol.LoadAllError, match="undefined symbol"):
        session.load_all([needs_it])


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_bad_is_named_and_the_rest_is_loaded(
    session: tol.Session, kernels: list[Path], tmp_path: Path, threads: int
) -> None:
    bad = tmp_path / "bad.o"
    bad.write_bytes(b"no object")
    missing = tmp_path / "missing.o"
    objects: list[Any] = [*kernels[:3], bad, kernels[3], missing, b"no object either", kernels[4]]
    with pytest.raises(tol.LoadAllError) as caught:
        session.load_all(objects, threads=threads)
    results = caught.value.results
    assert [type(result).__name__ for result in results] == [
        *["Dylib"] * 3, "ObjectFormatError", "Dylib", "FileNotFoundError", "ObjectFormatError",
        "Dylib",
    ]  # fmt: skip
    assert numbers([r for r in results if isinstance(r, tol.Dylib)]) == [0, 1, 2, 3, 4]
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 of 8 could not be loaded:"
    assert lines[1].startswith(f"  {bad}: ")
    assert lines[2].startswith(f"  {missing}: ")
    assert "No such file" in lines[2]
    assert lines[3].startswith("  objects[6]: <bytes>")
    assert "5 dylib(s)" in lines[4]
    assert len(lines) == 5


def test_a_name_that_is_taken_fails_alone(session: tol.Session, kernels: list[Path]) -> None:
    taken = session.load(kernels[0], name="a")
    with pytest.raises(tol.LoadAllError, match=r"(?s)1 of 2 .*'a': .*already has a dylib named"):
        session.load_all({"a": kernels[1], "b": kernels[2]})
    assert session["a"] is taken


MANY = r"100 of 100 .*\n(.*\n){20}  and 80 more\n"


def test_many_failures_are_counted(session: tol.Session) -> None:
    with pytest.raises(
        tol.LoadAllError, match=r"100 of 100 .*\n(.*\n){20}  and 80 more\n"
    ) as caught:
        session.load_all([b"bad"] * 100)
    assert len(caught.value.results) == 100


@pytest.fixture
def meets(compile: Compiler) -> Iterator[Meets]:
    """Return an object whose initializer calls something, and what says what that is."""
    import tvm_ffi

    def is_to_call(function: Callable[[], object]) -> None:
        tvm_ffi.register_global_func("testing.meet", lambda: function() and None, override=True)

    yield compile(MEETS, name="meets"), is_to_call
    tvm_ffi.registry.remove_global_func("testing.meet")


def test_so_many_are_loaded_at_once(session: tol.Session, meets: Meets) -> None:
    # Three initializers that wait for each other: in two threads none of them would arrive.
    barrier = threading.Barrier(3)
    arrived = []
    path, is_to_call = meets
    is_to_call(lambda: arrived.append(barrier.wait(60)))
    assert numbers(session.load_all([path] * 3, threads=3)) == [1, 1, 1]
    assert sorted(arrived) == [0, 1, 2]


def test_one_thread_is_the_calling_one(session: tol.Session, meets: Meets) -> None:
    path, is_to_call = meets
    threads = set()
    is_to_call(lambda: threads.add(threading.current_thread()))
    session.load_all([path] * 3, threads=1)
    assert threads == {threading.current_thread()}


def test_loads_that_have_not_begun_are_left_out_after_an_error(
    session: tol.Session, meets: Meets, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, is_to_call = meets
    begun = threading.Semaphore(0)
    cancelled = threading.Event()

    def begin() -> None:
        begun.release()
        cancelled.wait(60)

    is_to_call(begin)
    shutdown = ThreadPoolExecutor.shutdown

    def cancel_first(self: Any, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(self, wait=False, cancel_futures=cancel_futures)
        cancelled.set()
        shutdown(self, wait=wait)

    def make() -> Iterator[Path]:
        for _ in range(8):
            yield path
        assert all(begun.acquire(timeout=60) for _ in range(2))
        raise KeyError("the compiler's")

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", cancel_first)
    with pytest.raises(KeyError, match="the compiler's"):
        session.load_all(make(), threads=2)
    assert not begun.acquire(blocking=False)


def test_an_iterator_is_read_as_the_loads_go_on(session: tol.Session, kernels: list[Path]) -> None:
    most = 0
    here = threading.current_thread()

    def make() -> Iterator[Path]:
        nonlocal most
        for _ in range(100):
            assert threading.current_thread() is here
            most = max(most, made[0] - len(session.dylibs))
            made[0] += 1
            yield kernels[0]

    made = [0]
    assert len(session.load_all(make(), threads=2)) == 100
    assert most <= 2 * 4


def test_the_exception_of_an_iterator_is_passed_on(
    session: tol.Session, kernels: list[Path]
) -> None:
    def make() -> Iterator[Path]:
        yield from kernels
        raise KeyError("the compiler's")

    for threads in (1, 2):
        with pytest.raises(KeyError, match="the compiler's"):
            session.load_all(make(), threads=threads)
    assert numbers(session.load_all(kernels)) == list(range(12))
    assert not [t for t in threading.enumerate() if t.name.startswith("load_all")]


def test_the_exceptions_that_end_a_program_are_passed_on(
    session: tol.Session, kernels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import concurrent.futures

    def interrupted(self: object, timeout: float | None = None) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures.Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.load_all(kernels, threads=2)
    assert not [t for t in threading.enumerate() if t.name.startswith("load_all")]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("a.o",), {}, TypeError, r"an iterable.* not str; for one dylib there is load\(\)"),
        ((b"a.o",), {}, TypeError, "not bytes"),
        ((Path("a.o"),), {}, TypeError, "not PosixPath"),
        ((5,), {}, TypeError, "not int"),
        (([],), {"threads": 0}, ValueError, "at least 1, not 0"),
        (([],), {"threads": 1.5}, TypeError, "an int or None, not float"),
        (([],), {"threads": True}, TypeError, "an int or None, not bool"),
        (([],), {"progress": 1}, TypeError, "progress must be True or False"),
        (([],), {"replace": True}, ValueError, "needs names"),
        (([],), {"replace": 1}, TypeError, "replace must be True or False"),
        (([],), {"whole_archive": 1}, TypeError, "whole_archive must be True or False"),
        (([],), {"link_order": "a.so"}, TypeError, "link_order must be an iterable"),
    ],
)
def test_wrong_arguments(
    session: tol.Session, arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        session.load_all(*arguments, **options)


def test_wrong_elements_fail_alone(session: tol.Session, kernels: list[Path]) -> None:
    with pytest.raises(tol.LoadAllError, match=r"objects\[1\]: objects must be a path") as caught:
        session.load_all([kernels[0], 5])  # type: ignore[list-item]
    assert isinstance(caught.value.results[1], TypeError)


def test_a_closed_session(kernels: list[Path]) -> None:
    session = tol.Session("gone")
    session.close()
    with pytest.raises(tol.LoadAllError, match="session 'gone' is closed") as caught:
        session.load_all(kernels)
    assert {type(result) for result in caught.value.results} == {tol.SessionClosedError}


def test_progress(
    session: tol.Session, kernels: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    session.load_all(kernels, progress=False)
    assert capfd.readouterr() == ("", "")
    assert numbers(session.load_all(kernels, progress=True)) == list(range(12))
    shown = capfd.readouterr()
    assert shown.out == ""
    assert re.search(r"loading .*12/12", shown.err)
    objects: list[Any] = [kernels[0], b"bad", kernels[1]]
    with pytest.raises(tol.LoadAllError):
        session.load_all(iter(objects), progress=True)
    assert re.search(r"loading, 1 failed .*3/\?", capfd.readouterr().err)


def test_progress_needs_rich(
    session: tol.Session, kernels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    importlib.invalidate_caches()
    with pytest.raises(ImportError, match=r"pip install 'tvm-ffi-object-loader\[cli\]'"):
        session.load_all(kernels, progress=True)
    assert session.dylibs == {}
