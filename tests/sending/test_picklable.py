# SPDX-License-Identifier: Apache-2.0
"""What was loaded is sent as it was when it was loaded, or the error says why it cannot be."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript

pytestmark = pytest.mark.usefixtures("nothing_received")

SOURCE = """
#include "safe_call.h"
EXPORT(number) { RETURN(NUMBER); }
"""


def number(compile: Compiler, value: int) -> Path:
    return compile(SOURCE, "-O1", "-fPIC", f"-DNUMBER={value}", name="number")


@pytest.fixture
def path(compile: Compiler, tmp_path: Path) -> Path:
    return Path(shutil.copy(number(compile, 1), tmp_path / "number.o"))


def write(path: Path, content: bytes) -> None:
    """Write to a file, at another time than before, however coarse the system's clock is."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def sent(function: tvm_ffi.Function, session: tol.Session) -> Any:
    """Return what is received where the sender's dylibs are not."""
    data = pickle.dumps(function)
    session.close()
    return pickle.loads(data)


def touch(path: Path) -> None:
    write(path, path.read_bytes())


def rewrite(path: Path) -> None:
    write(path, path.read_bytes()[::-1])


def truncate(path: Path) -> None:
    write(path, b"")


def extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace(path: Path) -> None:
    """Put another file in its place, of the same size and time."""
    times = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES: dict[str, list[Callable[[Path], None]]] = {
    "has changed since it was loaded: load it again": [touch, rewrite, truncate, extend, replace],
    r"cannot be read any more \(No such file or directory\): load it again": [Path.unlink],
    r"cannot be read any more \(Is a directory\): load it again": [replace_by_a_folder],
    "not a regular file": [replace_by_a_pipe],
}


@pytest.mark.parametrize(
    ("says", "change"),
    [(says, change) for says, changes in CHANGES.items() for change in changes],
    ids=[change.__name__ for changes in CHANGES.values() for change in changes],
)
def test_a_file_that_has_changed(
    session: tol.Session, path: Path, says: str, change: Callable[[Path], None]
) -> None:
    dylib = session.load(path, name="d")
    again = session.load(path, name="again")
    data = pickle.dumps(again["number"])
    change(path)
    for one in (dylib["number"], dylib.module, dylib, again["number"]):
        with pytest.raises(TypeError, match=f"^dylib '(d|again)' cannot be pickled: .*: {says}"):
            pickle.dumps(one)
    assert pickle.loads(data) == again["number"]


def test_a_file_of_the_link_order_that_has_changed(session: tol.Session, path: Path) -> None:
    base = session.load(path, name="base")
    dylib = session.create_dylib("d", link_order=[base])
    rewrite(path)
    says = "'d' cannot be pickled: of dylib 'base', which it is linked against, /.*: has changed"
    with pytest.raises(TypeError, match=says):
        pickle.dumps(dylib)


def test_a_file_that_is_there_again(session: tol.Session, path: Path) -> None:
    function = session.load(path)["number"]
    path.rename(path.with_name("away"))
    with pytest.raises(TypeError, match="No such file"):
        pickle.dumps(function)
    path.with_name("away").rename(path)
    assert pickle.loads(pickle.dumps(function)) == function


def test_another_current_folder(
    session: tol.Session, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    dylib = session.load(path.name)
    (path.parent / "folder").mkdir()
    monkeypatch.chdir(path.parent / "folder")
    assert sent(dylib["number"], session)() == 1


def test_a_current_folder_that_is_gone(
    session: tol.Session, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    dylib = session.load(path)
    assert pickle.loads(pickle.dumps(dylib)) is dylib


def test_bytes(session: tol.Session, path: Path) -> None:
    dylib = session.load(path.read_bytes(), name="d")
    says = (
        "'d' cannot be pickled: <bytes>: was loaded from bytes, .*: load it from a file, or into a"
    )
    with pytest.raises(TypeError, match=says):
        pickle.dumps(dylib["number"])
    assert dylib["number"]() == 1


def test_objects_in_a_tar(session: tol.Session, path: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "objects.tar", "w") as tar:
        tar.add(path, "number.o")
    dylib = session.load(tmp_path / "objects.tar")
    with pytest.raises(TypeError, match=r"objects\.tar\(number\.o\): was loaded from bytes"):
        pickle.dumps(dylib)
    session.picklable = True
    dylib = session.load(tmp_path / "objects.tar")
    (tmp_path / "objects.tar").unlink()
    assert pickle.loads(pickle.dumps(dylib)) is dylib


@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "file"])
@pytest.mark.parametrize("size", [0, 1 << 20], ids=["small", "large"])
def test_contents_that_are_kept(
    compile: Compiler, tmp_path: Path, as_bytes: bool, size: int
) -> None:
    source = f'{SOURCE}const char data[{size} + 1] = "data";'
    compiled = compile(source, "-O1", "-fPIC", f"-DNUMBER={1 + as_bytes}")
    path = Path(shutil.copy(compiled, tmp_path / "number.o"))
    session = tol.Session(picklable=True)
    given = bytearray(path.read_bytes())
    dylib = session.load(given if as_bytes else path)
    given[:] = bytes(len(given))
    path.unlink()
    assert sent(dylib["number"], session)() == 1 + as_bytes


def test_it_can_be_set(session: tol.Session, path: Path) -> None:
    assert session.picklable is False
    before = session.load(path.read_bytes())
    session.picklable = True
    assert session.picklable is True
    dylib = session.load(path.read_bytes())
    assert pickle.loads(pickle.dumps(dylib)) is dylib
    with pytest.raises(TypeError, match="was loaded from bytes"):
        pickle.dumps(before)
    session.picklable = False
    with pytest.raises(TypeError, match="was loaded from bytes"):
        pickle.dumps(session.load(path.read_bytes()))
    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match="picklable must be True or False"):
            session.picklable = wrong  # type: ignore[assignment]
    with pytest.raises(TypeError, match="picklable must be True or False"):
        tol.Session(picklable=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "0", "1"])
def test_the_environment_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TVM_FFI_OBJECT_LOADER_PICKLABLE", value)
    with tol.Session() as session:
        assert session.picklable is (value == "1")
    with tol.Session(picklable=False) as session:
        assert session.picklable is False


def test_another_value_of_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_FFI_OBJECT_LOADER_PICKLABLE", "yes")
    with pytest.raises(ValueError, match="TVM_FFI_OBJECT_LOADER_PICKLABLE must be 1 or 0"):
        tol.Session()


def test_the_environment_variable_and_the_default_session(
    run_script: RunScript, path: Path
) -> None:
    script = """
import pathlib, pickle, sys, tvm_ffi
import tvm_ffi_object_loader as tol
module = tol.load_module(pathlib.Path(sys.argv[1]).read_bytes())
print(pickle.loads(pickle.dumps(module)) == module, tol.default_session().picklable)
"""
    found = run_script(script, path, TVM_FFI_OBJECT_LOADER_PICKLABLE="1")
    assert found == "True True\n"


def test_what_others_load_by_way_of_orcjit(path: Path) -> None:
    with tol.Session(picklable=True) as session, tol.register_as_orcjit(session):
        load = tvm_ffi.get_global_func("tvm_ffi_orcjit.SessionLoadModule")
        own = tvm_ffi.get_global_func("tvm_ffi_orcjit.GlobalDefaultSession")()
        module = load(own, [path.read_bytes()], "")
        received = pickle.loads(pickle.dumps(module.number))
        assert received == module.number
        del module, received, own
        gc.collect()


USES = """
#include "safe_call.h"
int64_t needed(void);
EXPORT(use) { RETURN(needed()); }
"""
NEEDED = "#include <stdint.h>\nint64_t needed(void) { return 5; }\n"
UNNEEDED = """
#include "safe_call.h"
EXPORT(unneeded) { RETURN(6); }
"""


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "needed"])
@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "from the file"])
def test_archives(
    compile: Compiler, make_archive: Callable[..., Path], whole: bool, keeps: bool
) -> None:
    archive = make_archive(compile(NEEDED), compile(UNNEEDED))
    session = tol.Session(picklable=keeps)
    dylib = session.load([compile(USES), archive], whole_archive=whole)
    data = pickle.dumps(dylib)
    session.close()
    received = pickle.loads(data)
    assert list(received) == (["unneeded", "use"] if whole else ["use"])[-len(list(received)) :]
    assert ("unneeded" in received) is whole
    assert received["use"]() == 5


def test_all_of_an_archive_is_not_what_is_needed_of_it(
    session: tol.Session, compile: Compiler, make_archive: Callable[..., Path]
) -> None:
    given = [compile(USES), make_archive(compile(NEEDED), compile(UNNEEDED))]
    data = [pickle.dumps(session.load(given, whole_archive=whole)) for whole in (False, True)]
    session.close()
    assert [len(pickle.loads(one)) for one in data] == [1, 2]


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "from the file"])
def test_thin_archives(compile: Compiler, make_archive: Callable[..., Path], keeps: bool) -> None:
    archive = make_archive(compile(UNNEEDED), options="rcT")
    with tol.Session(picklable=keeps) as session:
        dylib = session.load(archive)
        says = r"libtest\.a: is a thin archive, .* load the objects, or a whole archive, instead"
        with pytest.raises(TypeError, match=says):
            pickle.dumps(dylib)
        assert dylib["unneeded"]() == 6


def make_library(compile: Compiler, path: Path) -> Path:
    subprocess.run(["gcc", "-shared", compile(NEEDED), "-o", path], check=True)
    return path


@pytest.mark.parametrize("where", ["load", "link_order", "libraries", "load of its own"])
def test_shared_libraries_are_sent_as_paths(
    compile: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    library = make_library(compile, tmp_path / "libneeded.so")
    monkeypatch.chdir(tmp_path)
    session = tol.Session(libraries=[library.name] if where == "libraries" else [])
    given: list[str | Path] = [compile(USES)]
    if where == "load":
        given.append(library.name)
    dylib = session.create_dylib(link_order=["./libneeded.so"] if where == "link_order" else [])
    if where == "load of its own":
        dylib.load(library.name)
    dylib.load(given)
    monkeypatch.chdir("/")
    data = pickle.dumps(dylib)
    session.close()
    assert str(library).encode() in data
    with pickle.loads(data) as received:
        assert received["use"]() == 5
    library.unlink()
    with pytest.raises(FileNotFoundError, match=r"libneeded\.so") as caught:
        pickle.loads(data)
    assert caught.value.filename == str(library)


def test_a_load_that_failed_is_not_sent(
    session: tol.Session, path: Path, compile: Compiler
) -> None:
    dylib = session.load(path)
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.load(compile(USES))
    with pytest.raises(tol.DuplicateSymbolError):
        dylib.load(path)
    data = pickle.dumps(dylib)
    assert data.count(path.read_bytes()) == 1
    session.close()
    assert list(pickle.loads(data)) == ["number"]


def test_nothing_is_kept_of_what_is_unloaded(session: tol.Session, path: Path) -> None:
    session.picklable = True
    dylib = session.load(path.read_bytes())
    ((_, _, _, loads),) = dylib._native.recipe()
    assert len(loads) == 1
    dylib.close()
    ((_, _, _, loads),) = dylib._native.recipe()
    assert loads == []
