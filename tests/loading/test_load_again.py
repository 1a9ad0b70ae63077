# SPDX-License-Identifier: Apache-2.0
"""Objects loaded again under a name, and the forms in which objects and link orders are given."""

from __future__ import annotations

import ctypes
import gc
import io
import tarfile
import threading
import time
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

ANSWER = """
#include "safe_call.h"
EXPORT(answer) { RETURN(ANSWER); }
"""
WAITS = """
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void init(void) {
  volatile int64_t* flag = (int64_t*)strtoull(getenv("OBJECT_FLAG"), 0, 10);
  flag[0] = 1;
  for (int i = 0; i < 30000 && !flag[1]; ++i) usleep(1000);
}
"""
NEEDS = """
#include "safe_call.h"
int64_t from_library(void);
EXPORT(ask) { RETURN(from_library()); }
"""


@pytest.fixture(scope="session")
def answers(compile: Compiler) -> list[Path]:
    return [compile(ANSWER, "-O2", "-fPIC", f"-DANSWER={n}") for n in range(3)]


@pytest.fixture(scope="session")
def library(compile: Compiler) -> Path:
    source = "long from_library(void) { return 77; }\n"
    return compile.link(compile(source, "-fPIC"))


def test_a_new_dylib_gets_the_name(session: tol.Session, answers: list[Path]) -> None:
    first = session.load(answers[0], name="k")
    with pytest.raises(tol.ObjectLoaderError, match="replace=True"):
        session.load(answers[1], name="k")
    held = first["answer"]
    second = session.load(answers[1], name="k", replace=True)
    assert session["k"] is second
    assert session.dylibs == {"k": second}
    assert (first.name, second.name) == ("k", "k")
    assert (held(), first["answer"](), second["answer"]()) == (0, 0, 1)
    assert session.stats().dylibs == 2
    first.close()
    assert session["k"] is second
    second.close()
    assert "k" not in session
    assert session.load(answers[2], name="k")["answer"]() == 2


def test_a_name_that_nobody_has_can_be_replaced(session: tol.Session, answers: list[Path]) -> None:
    for n in (0, 1, 2, 1):
        # As a notebook's cell that is run again.
        dylib = session.load(answers[n], name="k", replace=True)
        assert dylib["answer"]() == n
    gc.collect()
    assert session.stats().dylibs == 1
    assert session.load_module(answers[0], name="k", replace=True).answer() == 0


def test_what_is_replaced_is_unloaded_when_nobody_holds_it(
    session: tol.Session, traced: Path, answers: list[Path], trace: object
) -> None:
    session.load(traced, name="k")
    dylib = session.load(traced, name="k", replace=True)
    dylib = session.load(answers[0], name="k", replace=True)
    gc.collect()
    assert session.stats().objects == 1
    assert dylib["answer"]() == 0
    assert trace.take() == [1, -1, 1, -1]  # type: ignore[attr-defined]


def test_a_load_that_fails_replaces_nothing(session: tol.Session, answers: list[Path]) -> None:
    first = session.load(answers[0], name="k")
    with pytest.raises(tol.ObjectFormatError):
        session.load(b"nothing", name="k", replace=True)
    assert session["k"] is first
    assert list(session) == ["k"]
    assert session.stats().dylibs == 1


def test_the_old_dylib_can_be_in_the_new_ones_link_order(
    session: tol.Session, compile: Compiler
) -> None:
    old = session.load(compile("long from_library(void) { return 5; }\n", "-fPIC"), name="k")
    new = session.load(compile(NEEDS), name="k", link_order=[old], replace=True)
    assert new["ask"]() == 5
    assert new.link_order == [old]
    again = session.load(compile(NEEDS), name="k", link_order=[new, old], replace=True)
    assert again["ask"]() == 5


def test_closing_the_session_closes_what_was_replaced(answers: list[Path]) -> None:
    session = tol.Session()
    dylibs = [session.load(answer, name="k", replace=True) for answer in answers]
    functions = [dylib["answer"] for dylib in dylibs]
    session.close()
    assert all(dylib.closed for dylib in dylibs)
    for function in functions:
        with pytest.raises(tol.SessionClosedError):
            function()


def test_replacing_in_many_threads(session: tol.Session, answers: list[Path]) -> None:
    start = threading.Barrier(4)
    loaded: list[tol.Dylib] = []

    def replace(n: int) -> None:
        start.wait()
        for _ in range(50):
            dylib = session.load(answers[n], name="k", replace=True)
            assert dylib["answer"]() == n
        loaded.append(dylib)

    threads = [threading.Thread(target=replace, args=(n % 3,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    assert session["k"] in loaded
    assert list(session) == ["k"]
    loaded.clear()
    gc.collect()
    assert session.stats().dylibs == 0
    assert session.load(answers[0], name="k")["answer"]() == 0


def test_a_dylib_gets_the_name_when_it_is_loaded(
    session: tol.Session, compile: Compiler, answers: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = (ctypes.c_int64 * 2)()
    monkeypatch.setenv("OBJECT_FLAG", str(ctypes.addressof(flag)))
    slow: list[tol.Dylib] = []
    waits = compile(WAITS)
    loading = threading.Thread(
        target=lambda: slow.append(session.load(waits, name="k", replace=True))
    )
    first = session.load(answers[0], name="k")
    loading.start()
    try:
        while not flag[0]:
            time.sleep(0.001)
        assert session["k"] is first
        second = session.load(answers[1], name="k", replace=True)
        assert session["k"] is second
    finally:
        flag[1] = 1
        loading.join()
    assert session["k"] is slow[0]


def test_a_name_is_needed_to_replace(session: tol.Session, answers: list[Path]) -> None:
    with pytest.raises(ValueError, match="name"):
        session.load(answers[0], replace=True)
    with pytest.raises(TypeError, match="replace must be True or False"):
        session.load(answers[0], name="k", replace=1)  # type: ignore[arg-type]
    assert session.stats().dylibs == 0


def test_load_returns_the_dylib(session: tol.Session, answers: list[Path]) -> None:
    dylib = session.create_dylib()
    assert dylib.load(answers[0]) is dylib


def test_objects_are_any_iterable(session: tol.Session, compile: Compiler, tmp_path: Path) -> None:
    for n in range(3):
        source = f'#include "safe_call.h"\nEXPORT(f{n}) {{ RETURN({n}); }}\n'
        (tmp_path / f"k{n}.o").write_bytes(compile(source).read_bytes())
    for objects in (tmp_path.glob("*.o"), set(tmp_path.iterdir()), iter([*tmp_path.iterdir()])):
        assert session.load(objects).functions == ["f0", "f1", "f2"]
    contents = (path.read_bytes() for path in tmp_path.iterdir())
    assert tol.load_module(contents).f2() == 2
    with pytest.raises(ValueError, match="nothing to load"):
        session.load(tmp_path.glob("*.absent"))
    with pytest.raises(TypeError, match=r"objects\[1\] must be"):
        session.load(iter([tmp_path / "k0.o", 5]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="iterable"):
        session.load({"k": b""})


def test_a_link_order_is_any_iterable(
    session: tol.Session, compile: Compiler, library: Path
) -> None:
    base = session.load(compile("long from_library(void) { return 6; }\n", "-fPIC"))
    assert session.load(compile(NEEDS), link_order=(d for d in [base]))["ask"]() == 6
    assert session.load(compile(NEEDS), link_order={base, library})["ask"]() in (6, 77)
    loader = tol.ObjectLoader(session=session)
    loader.load(compile("long from_library(void) { return 7; }\n", "-fPIC"))
    dylib = session.load(compile(NEEDS), link_order=[loader])
    assert dylib["ask"]() == 7
    assert dylib.link_order == [loader.dylib]
    with pytest.raises(TypeError, match=r"link_order\[1\] must be a Dylib, an ObjectLoader or"):
        session.create_dylib(link_order=[loader, session])  # type: ignore[list-item]


def test_every_way_to_load_takes_a_link_order(compile: Compiler, library: Path) -> None:
    needs = compile(NEEDS)
    assert tol.load_module(needs, link_order=[library]).ask() == 77
    assert tol.ObjectLoader(link_order=[library]).load(needs)["ask"]() == 77
    module = tol.load_module(needs, name="asks", link_order=[library])
    assert tol.default_session()["asks"]["ask"]() == module.ask() == 77
    again = tol.load_module(needs, name="asks", link_order=[library], replace=True)
    assert tol.default_session()["asks"]["ask"]() == again.ask() == 77


def test_a_session_has_libraries_for_all_its_dylibs(compile: Compiler, library: Path) -> None:
    needs = compile(NEEDS)
    with tol.Session(libraries=[library]) as session:
        assert session.libraries == (str(library),)
        assert session.load(needs)["ask"]() == 77
        assert session.load_module(needs).ask() == 77
        assert tol.ObjectLoader(session=session).load(needs)["ask"]() == 77
        mine = session.load(compile("long from_library(void) { return 8; }\n", "-fPIC"))
        dylib = session.load(needs, link_order=[mine])
        assert dylib["ask"]() == 8
        assert dylib.link_order == [mine, str(library)]
        session.libraries = ()
        with pytest.raises(tol.UndefinedSymbolError):
            session.load(needs)


def test_libraries_of_the_default_session_serve_tvm_ffi(compile: Compiler, library: Path) -> None:
    needs = compile(NEEDS)
    session = tol.default_session()
    before = session.libraries
    with pytest.raises(tol.UndefinedSymbolError):
        tvm_ffi.load_module(needs, keep_module_alive=False)
    session.libraries = [library]
    try:
        assert tvm_ffi.load_module(needs, keep_module_alive=False).ask() == 77
    finally:
        session.libraries = before


@pytest.mark.parametrize(
    ("libraries", "message"),
    [
        ("lib.so", "iterable of paths, not str"),
        (5, "iterable of paths, not int"),
        ([b"lib.so", 5], r"libraries\[0\] must be the path"),
        ([None], r"libraries\[0\] must be the path of a shared library, not NoneType"),
    ],
)
def test_libraries_are_paths(libraries: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tol.Session(libraries=libraries)  # type: ignore[arg-type]


def test_a_library_that_cannot_be_opened_says_so_when_a_dylib_is_made(tmp_path: Path) -> None:
    with tol.Session(libraries=[tmp_path / "absent.so"]) as session:
        with pytest.raises(FileNotFoundError, match=r"absent\.so"):
            session.create_dylib("k")
        assert list(session) == []


@pytest.mark.parametrize("name", ["x.o", "build/x.o", "lib.a", "lib.so"])
def test_a_loader_given_a_file_says_what_is_wrong(name: str) -> None:
    with pytest.raises(ValueError, match=r"ObjectLoader\(\)\.load\('"):
        tol.ObjectLoader(name)


def tar(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return path


def test_a_tar_stands_for_the_objects_in_it(
    session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    uses = compile(NEEDS).read_bytes()
    defines = compile("long from_library(void) { return 9; }\n", "-fPIC").read_bytes()
    both = tar(tmp_path / "both.tar", {"lib0.o": uses, "devc.o": defines})
    assert session.load(both)["ask"]() == 9
    assert tol.load_module(str(both)).ask() == 9
    one = tar(tmp_path / "one.tar", {"folder/lib0.o": uses})
    assert tol.load_module([one, defines]).ask() == 9
    with pytest.raises(tol.UndefinedSymbolError, match=r"used by .*one\.tar\(folder/lib0\.o\)"):
        session.load(one)


def test_a_tar_that_is_none(session: tol.Session, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.tar"):
        session.load(tmp_path / "absent.tar")
    with pytest.raises(tol.ObjectFormatError, match=r"empty\.tar: there are no files"):
        session.load(tar(tmp_path / "empty.tar", {}))
    (tmp_path / "text.tar").write_text("no archive" * 100)
    with pytest.raises(tol.ObjectFormatError, match=r"text\.tar: cannot be read as a tar archive"):
        session.load(tmp_path / "text.tar")
    whole = tar(tmp_path / "whole.tar", {"a.o": b"\0" * 20000}).read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[:10000])
    with pytest.raises(tol.ObjectFormatError, match=r"half\.tar: cannot be read as a tar archive"):
        session.load(tmp_path / "half.tar")
    with pytest.raises(
        tol.ObjectFormatError, match=r"other\.tar\(lib/source\.c\): is not an object"
    ):
        session.load(tar(tmp_path / "other.tar", {"lib/source.c": b"int x;\n"}))
    assert session.stats().dylibs == 0
