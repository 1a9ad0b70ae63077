# SPDX-License-Identifier: Apache-2.0
"""What the package tells ``logging``, and that it costs nothing where nobody listens."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript

LOGGER = logging.getLogger("tvm_ffi_object_loader")
USES_MISSING = "int missing_anywhere(void);\nint run(void) { return missing_anywhere(); }\n"


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what was told since the last call."""
    caplog.set_level(logging.DEBUG, LOGGER.name)

    def take() -> list[str]:
        assert all(record.levelno == logging.DEBUG for record in caplog.records)
        told = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
        caplog.clear()
        return told

    return take


def test_loads_are_told(
    messages: Callable[[], list[str]], compile: Compiler, add_object: Path
) -> None:
    with tol.Session("kernels") as session:
        dylib = session.load([add_object, compile("int a;\n").read_bytes()], name="math")
        (told,) = messages()
        stats = dylib.stats()
        assert told.startswith(
            f"loaded {add_object}, <bytes> into dylib 'math' of session 'kernels': 2 object(s); "
            f"{stats.bytes_code} bytes of code, {stats.bytes_constants} of constants, "
            f"{stats.bytes_data} of data; "
        )
        times = re.fullmatch(r".*; ([\d.]+) ms reading, ([\d.]+) ms linking, .* ms init.*", told)
        assert times is not None
        assert float(times[1]) == pytest.approx(1e3 * stats.seconds_reading, abs=1e-3)
        assert float(times[2]) == pytest.approx(1e3 * stats.seconds_linking, abs=1e-3)
        dylib.load(compile("int b;\n"))
        assert session.load_module(add_object).add(1, 2) == 3
        assert [each.split(" ")[0] for each in messages()] == ["loaded", "loaded"]
        contents = [compile(f"int c{number};\n") for number in range(11)]
        session.load(contents)
        assert f"{contents[7]} and 3 more into" in messages()[0]


def test_libraries_and_link_orders_are_told(
    messages: Callable[[], list[str]], add_object: Path, tmp_path: Path
) -> None:
    library = tmp_path / "libadd.so"
    subprocess.run(["gcc", "-shared", "-o", library, add_object], check=True)
    with tol.Session("kernels") as session:
        base = session.load([add_object, library], name="base")
        opened, loaded = messages()
        assert opened == f"opened {library} for dylib 'base' of session 'kernels'"
        assert loaded.startswith("loaded ")
        session.create_dylib("app", link_order=[base, library])
        assert messages() == [
            f"made dylib 'app' of session 'kernels', linked against 'base', {library}"
        ]


def test_failures_are_told_with_the_first_line(
    messages: Callable[[], list[str]], compile: Compiler
) -> None:
    path = compile(USES_MISSING)
    with tol.Session("kernels") as session:
        with pytest.raises(tol.UndefinedSymbolError) as caught:
            session.load(path, name="math")
        (told,) = messages()
        first, second = str(caught.value).splitlines()[:2]
        assert first.endswith(":")
        assert told == (
            f"failed to load {path} into dylib 'math' of session 'kernels': "
            f"UndefinedSymbolError: {first} {second.strip()}"
        )
        assert "missing_anywhere" in told
        with pytest.raises(tol.ObjectFormatError) as malformed:
            session.load(b"no object", name="math")
        assert messages() == [
            "failed to load <bytes> into dylib 'math' of session 'kernels': "
            f"ObjectFormatError: {str(malformed.value).splitlines()[0]}"
        ]
        with pytest.raises(FileNotFoundError):
            session.create_dylib("other").load("absent.o")
        (told,) = messages()
        assert re.match(r"failed to load absent\.o into dylib 'other'.*: FileNotFoundError: ", told)


def test_closes_are_told_with_what_is_kept(
    messages: Callable[[], list[str]], compile: Compiler, add_object: Path
) -> None:
    session = tol.Session("kernels")
    flags = ("-O1", "-fPIC", '-DTYPE_KEY="testing.handing_out.Pair"')
    makes = session.load(compile.cxx("handing_out.cc", *flags), name="makes")
    given: Any = tvm_ffi.List([])
    append = makes["append"]
    append(given, 5)
    plain = session.load(add_object, name="plain")
    messages()
    plain.close()
    plain.close()
    assert messages() == ["closed dylib 'plain' of session 'kernels', and nothing is kept"]
    makes.close()
    assert messages() == [
        "closed dylib 'makes' of session 'kernels', whose code is kept by 1 object"
    ]
    session.close()
    session.close()
    assert messages() == ["closed session 'kernels'; code is kept of dylibs 'makes' by 1 object"]
    del given
    gc.collect()
    with tol.Session("other"):
        pass
    assert messages() == ["closed session 'other', and nothing is kept"]


def everything(session: tol.Session, objects: Path) -> None:
    """Load, fail and close, in every way that is told of."""
    base = session.load(objects, name="base")
    session.load(objects, link_order=[base]).close()
    with pytest.raises(tol.ObjectFormatError):
        base.load(b"no object")
    with pytest.raises(FileNotFoundError):
        session.load_module("absent.o")
    assert base["add"](1, 2) == 3
    session.close()


@pytest.mark.parametrize("how", ["by its level", "for all loggers", "the logger"])
def test_nothing_is_made_where_nobody_listens(
    add_object: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    before = logging.getLogRecordFactory()

    def make(*given: Any, **named: Any) -> logging.LogRecord:
        made.append(given)
        return before(*given, **named)

    level, disabled = LOGGER.level, logging.root.manager.disable
    try:
        LOGGER.setLevel(logging.INFO if how == "by its level" else logging.DEBUG)
        if how == "for all loggers":
            logging.disable(logging.DEBUG)
        monkeypatch.setattr(LOGGER, "disabled", how == "the logger")
        logging.setLogRecordFactory(make)
        monkeypatch.setattr(LOGGER, "debug", lambda *given: made.append(given))
        everything(tol.Session(), add_object)
    finally:
        logging.setLogRecordFactory(before)
        LOGGER.setLevel(level)
        logging.disable(disabled)
    assert made == []


NOT_IMPORTED = """
import sys
import tvm_ffi_object_loader as tol
with tol.Session() as session:
    session.load(sys.argv[1]).close()
print([name for name in ("_log", "statistics") if f"tvm_ffi_object_loader.{name}" in sys.modules])
"""


def test_what_would_tell_is_not_even_imported(run_script: RunScript, add_object: Path) -> None:
    assert run_script(NOT_IMPORTED, add_object) == "[]\n"


class Calling(logging.Handler):
    """A handler that does something with each record, without the care that `emit` is to take."""

    def __init__(self, call: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        self._call(record)


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[logging.LogRecord], object]], None]]:
    """Have something called with each record."""
    handlers: list[Calling] = []
    level = LOGGER.level

    def add(call: Callable[[logging.LogRecord], object]) -> None:
        handlers.append(Calling(call))
        LOGGER.addHandler(handlers[-1])
        LOGGER.setLevel(logging.DEBUG)

    yield add
    for handler in handlers:
        LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)


def test_a_handler_that_raises_undoes_nothing(
    listen: Callable[[Callable[[logging.LogRecord], object]], None],
    add_object: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: raised.append(str(args.exc_value)))

    def fail(record: logging.LogRecord) -> None:
        raise OSError(f"no room for {record.msg.split()[0]}")

    listen(fail)
    session = tol.Session()
    everything(session, add_object)
    assert session.closed
    told = ["loaded", "made", "loaded", "closed", "failed", "failed", "closed"]
    assert raised == [f"no room for {word}" for word in told]


def test_a_handler_may_load_and_close(
    listen: Callable[[Callable[[logging.LogRecord], object]], None],
    session: tol.Session,
    compile: Compiler,
    add_object: Path,
) -> None:
    more = compile("int more;\n")
    done: list[object] = []
    is_busy = [False]

    def load(record: logging.LogRecord) -> None:
        if is_busy[0] or session.closed:
            return
        is_busy[0] = True
        if not done:
            done.append(session["math"].load(more))  # the one that is being told of
        other = session.load(add_object)
        assert other["add"](2, 3) == 5
        other.close()
        done.append(record.msg.split()[0])
        is_busy[0] = False

    listen(load)
    dylib = session.load(add_object, name="math")
    assert dylib["add"](1, 2) == 3
    assert dylib.lookup("more")
    with pytest.raises(tol.ObjectFormatError):
        dylib.load(b"no object")
    assert done == [dylib, "loaded", "failed"]
    assert dylib.stats().loads == 2
    assert session.stats().dylibs == 1
    dylib.close()
    assert done[-1] == "closed"
