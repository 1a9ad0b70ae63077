# SPDX-License-Identifier: Apache-2.0
"""Shared libraries beside objects or in the link order: how they are named, whose symbols count."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import Trace
from processors import X86_64, only_on
from refusal import Refusal
from shared_libraries import USER, is_mapped, total
from shared_libraries import libraries as libraries
from shared_libraries import user as user


def in_global_scope(symbol: str) -> bool:
    return hasattr(ctypes.CDLL(None), symbol)


def test_a_library_beside_the_object_gives_what_linking_to_it_gives(
    session: tol.Session, compile: Compiler, libraries: list[Path], user: Path, trace: Trace
) -> None:
    library = libraries[0]
    flags = (f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}")
    linked = compile.link(user, flags=flags)
    dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
    expected, address = dlopened.use(), dlopened.at()
    dylib = session.load([user, library])
    assert dylib["use"]() == expected == total(1)
    # One library, opened twice: the same variable.
    assert dylib["at"]() == dylib.lookup("answer") == address
    assert dylib["set"](50) == 50
    assert dlopened.use() == expected + 49
    assert trace.take() == [1]
    del dlopened
    gc.collect()
    assert dylib["use"]() == expected + 49
    dylib.close()
    assert trace.take() == [-1]


def ways(session: tol.Session, user: Path, library: Path) -> list[Callable[[], tol.Dylib]]:
    def later() -> tol.Dylib:
        dylib = session.create_dylib()
        dylib.load(library)
        dylib.load(user)
        return dylib

    return [
        later,
        lambda: session.load([library, user.read_bytes()]),
        lambda: session.load([user, str(library)]),
        lambda: session.load(user, link_order=[library]),
        lambda: session.load(user, link_order=[str(library)]),
        lambda: session.load(user, link_order=[session.load(library)]),
        lambda: tol.ObjectLoader(session=session).load([user, library]).dylib,
    ]


def test_every_way_to_name_a_library(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace
) -> None:
    before = session.stats().as_dict()
    for load in ways(session, user, libraries[0]):
        dylib = load()
        assert dylib["use"]() == total(1)
        assert dylib.lookup("number")
        assert sorted(dylib.functions) == ["at", "set", "use"]
        assert trace.take() == [1]
        del dylib
        gc.collect()
        assert trace.take() == [-1]
        assert not is_mapped(libraries[0])
    assert session.load_module(user, link_order=[libraries[1]]).use() == total(2)
    assert session.load_module([user, libraries[1]]).use() == total(2)
    gc.collect()
    after = session.stats().as_dict()
    for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data"):
        assert after[key] == before[key]


def test_the_order_decides(session: tol.Session, libraries: list[Path], user: Path) -> None:
    one, two = libraries
    assert session.load([user, one, two])["use"]() == total(1)
    assert session.load([two, user, one])["use"]() == total(2)
    assert session.load(user, link_order=[one, two])["use"]() == total(1)
    assert session.load(user, link_order=[two, one])["use"]() == total(2)
    assert session.load([user, two], link_order=[one])["use"]() == total(2)
    base = session.load(two)
    assert session.load(user, link_order=[base, one])["use"]() == total(2)
    assert session.load(user, link_order=[one, base])["use"]() == total(1)


def test_own_objects_come_first(
    session: tol.Session, compile: Compiler, libraries: list[Path], user: Path
) -> None:
    own = compile("#include <stdint.h>\nint64_t number(void) { return 70; }\n")
    assert session.load([user, own, libraries[0]])["use"]() == total(1) + 69
    base = session.load(own)
    assert session.load(user, link_order=[base, libraries[0]])["use"]() == total(1) + 69
    assert session.load(user, link_order=[libraries[0], base])["use"]() == total(1)


def test_dylibs_with_libraries_of_the_same_symbols_are_isolated(
    session: tol.Session, libraries: list[Path], user: Path
) -> None:
    first, second = (session.load([user, library]) for library in libraries)
    first["set"](10)
    assert first["use"]() == total(1) + 9
    assert second["use"]() == total(2)
    assert not in_global_scope("weakly")
    unlinked = session.create_dylib()
    with pytest.raises(tol.UndefinedSymbolError, match=r"\.so") as caught:
        unlinked.load(user)
    assert set(caught.value.symbols) == {"answer", "chosen", "number", "weakly"}


def test_what_a_library_depends_on_is_found_after_everything_else(
    session: tol.Session, compile: Compiler, libraries: list[Path], user: Path
) -> None:
    one, two = libraries
    upper = compile.link(
        compile("#include <stdint.h>\nint64_t number(void);\nint64_t up(void) { return 1; }\n"),
        flags=("-Wl,--no-as-needed", str(one)),
    )
    assert session.load([user, upper])["use"]() == total(1)
    assert session.load(user, link_order=[upper])["use"]() == total(1)
    assert session.load([user, upper, two])["use"]() == total(2)
    # libc, on which every library depends, does not hide a dylib that is searched later.
    clash = compile("int getpid(void) { return -5; }\n")
    caller = compile(
        '#include "safe_call.h"\nint getpid(void);\nEXPORT(pid) { RETURN(getpid()); }\n'
    )
    base = session.load(clash)
    assert session.load(caller, link_order=[upper, base])["pid"]() == -5
    assert session.load([caller, upper])["pid"]() == os.getpid()


def test_a_library_of_functions_is_no_part_of_the_dylib(
    session: tol.Session, refusal: Refusal, libraries: list[Path], user: Path
) -> None:
    dylib = session.load([user, libraries[0]])
    assert "of_library" not in dylib
    with pytest.raises(tol.FunctionNotFoundError, match=r"tvm_ffi\.load_module") as caught:
        dylib.get_function("of_library")
    assert str(libraries[0]) in str(caught.value)
    assert dylib.lookup("__tvm_ffi_of_library")
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("hidden")
    for load in (refusal.session.load_module, tol.load_module):
        with refusal.of(tol.ObjectFormatError, libraries[0], "tvm_ffi.load_module"):
            load(libraries[0])


def test_the_link_order_tells_dylibs_from_libraries(
    session: tol.Session, libraries: list[Path]
) -> None:
    base = session.create_dylib("base")
    app = session.create_dylib("app", link_order=[base, libraries[0], str(libraries[1])])
    assert app.link_order == [base, str(libraries[0]), str(libraries[1])]


def test_a_name_without_a_slash_is_a_file_in_the_current_folder(
    session: tol.Session,
    libraries: list[Path],
    user: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    libraries[0].rename(tmp_path / "libm.so.6")  # the system has another one of this name
    assert session.load([user, "libm.so.6"])["use"]() == total(1)
    (tmp_path / "libm.so.6").rename(tmp_path / "plugin.o")  # content tells, not the name
    assert session.load(user, link_order=["plugin.o"])["use"]() == total(1)
    with pytest.raises(FileNotFoundError) as caught:
        session.create_dylib("x", link_order=["libc.so.6"])
    assert caught.value.filename == "libc.so.6"
    with pytest.raises(FileNotFoundError):
        session.load([user, "libc.so.6"])


def test_symbols_without_an_address_of_their_own(session: tol.Session, compile: Compiler) -> None:
    library = compile.link(
        compile("int nothing;\n"), flags=("-Wl,--defsym=zero=0", "-Wl,--defsym=far=0x123456789abc")
    )
    caller = compile(
        '#include "safe_call.h"\nextern char zero, far;\n'
        "EXPORT(zero) { RETURN(&zero); }\nEXPORT(far) { RETURN(&far); }\n"
    )
    flags = ("-L" + str(library.parent), f"-l:{library.name}", f"-Wl,-rpath,{library.parent}")
    dlopened = tvm_ffi.load_module(compile.link(caller, flags=flags), keep_module_alive=False)
    dylib = session.load([caller, library])
    assert dylib["zero"]() == dlopened.zero() == 0
    assert dylib["far"]() == dlopened.far() == 0x123456789ABC
    assert dylib.lookup("zero") == 0


@only_on(X86_64, "others reach 4 GiB with the same code")
def test_data_out_of_reach_of_code_that_is_not_position_independent(
    refusal: Refusal, compile: Compiler, libraries: list[Path]
) -> None:
    near = compile(USER, "-O2", "-fno-pic", "-mcmodel=small", name="nopic")
    with refusal.of(tol.LinkError, near, "-fPIC"):
        refusal.dylib.load([near, libraries[0]])
    assert not is_mapped(libraries[0])


def test_names_with_null_characters_are_not_cut(
    session: tol.Session, compile: Compiler, libraries: list[Path]
) -> None:
    dylib = session.create_dylib(link_order=libraries[:1])
    assert dylib.lookup("number")
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("number\0x")
