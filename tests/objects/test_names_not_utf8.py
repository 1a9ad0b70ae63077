# SPDX-License-Identifier: Apache-2.0
"""Names that are not UTF-8: Python's surrogateescape stands for their bytes."""

from __future__ import annotations

import functools
import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import pytest

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from elf_writer import SHF_ALLOC, Section, function
from refusal import Refusal

pytestmark = pytest.mark.matrix

Test = TypeVar("Test", bound=Callable[..., None])


def told_in_ascii(test: Test) -> Test:
    """Make what pytest says of a failure something that it can print."""

    @functools.wraps(test)
    def told(*arguments: object, **named: object) -> None:
        said = ""
        try:
            test(*arguments, **named)
        except (Exception, pytest.fail.Exception):
            said = traceback.format_exc().encode("ascii", "backslashreplace").decode()
        if said:
            pytest.fail(said, pytrace=False)

    return cast(Test, told)


NAMES = [
    b"\xff\xfe",
    b"\xff",
    b"a\x80b",
    b"\xc3",
    b"\xc3\xa4\xc3",
    b"\xed\xb3\xbf",
    b"\xf4\x90\x80\x80",
    b"\xc0\x80",
    b"caf\xe9",
]


def quoted(name: bytes) -> str:
    """Return a name as C source has it within quotes."""
    return "".join(chr(c) if 32 <= c < 127 else f"\\{c:03o}" for c in name)


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def exporting(compile: Compiler, *names: bytes, toolchain: Toolchain = GCC) -> Path:
    """Return an object with a function of each name, besides ``ok``."""
    source = '#include "safe_call.h"\nEXPORT(ok) { RETURN(INT(0) + 1); }\n'
    for number, name in enumerate(names):
        source += (
            f"int64_t named_{number}(void* self, const TVMFFIAny* args, int32_t num_args,"
            f' TVMFFIAny* ret) __asm__("__tvm_ffi_{quoted(name)}");\n'
            f"int64_t named_{number}(void* self, const TVMFFIAny* args, int32_t num_args,"
            f" TVMFFIAny* ret) {{ RETURN(INT(0) + {100 * (number + 1)}); }}\n"
        )
    return compile(source, toolchain=toolchain)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
@told_in_ascii
def test_a_function_whose_name_is_not_utf8(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: bytes
) -> None:
    path = exporting(compile, name, toolchain=toolchain)
    assert b"\0__tvm_ffi_" + name + b"\0" in path.read_bytes()
    given = text(name)
    dylib = session.load(path)
    assert dylib.functions == sorted(["ok", given], key=os.fsencode)
    assert sorted(dylib) == sorted(["ok", given])
    assert given in dylib
    assert "ok" in dylib
    assert given + "x" not in dylib
    assert "\udcfd" not in dylib
    assert dylib[given](5) == dylib.get_function(given)(5) == 105
    assert dylib["ok"](5) == 6
    address = dylib.lookup(f"__tvm_ffi_{given}")
    assert address != dylib.lookup("__tvm_ffi_ok")
    other = session.create_dylib(link_order=[dylib])
    other.load(compile("int nothing;\n"))
    assert other.lookup(f"__tvm_ffi_{given}") == address
    loader = tol.ObjectLoader()
    loader.load(path)
    assert loader.get_function(given)(1) == 101


@told_in_ascii
def test_several_names_that_are_not_utf8(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(exporting(compile, *NAMES))
    assert set(dylib.functions) == {"ok", *map(text, NAMES)}
    for number, name in enumerate(NAMES, 1):
        assert dylib[text(name)](3) == 100 * number + 3


@told_in_ascii
def test_missing_functions_beside_names_that_are_not_utf8(
    refusal: Refusal, compile: Compiler
) -> None:
    dylib = refusal.session.load(exporting(compile, b"\xff\xfe", b"n\xffpe"), name="odd")
    for name in ("nope", *map(text, (b"\xff", b"\xfd\xfe", b"n\xfepe", b"\x80", b"\xc3\xa4\xff"))):
        with refusal.of(tol.FunctionNotFoundError, "odd") as caught:
            dylib[name]
        assert name in str(caught.value) or ascii(name)[1:-1] in str(caught.value)
        with refusal.of(tol.FunctionNotFoundError, "odd"):
            dylib.get_function(name)
        with pytest.raises(AttributeError):
            _ = dylib.module.nope
    dylib.close()


@pytest.mark.parametrize("name", ["\udcff", "\udcff\udcfe", "a\udc80b"])
@told_in_ascii
def test_looking_up_what_is_not_there(refusal: Refusal, name: str) -> None:
    with refusal.of(tol.UndefinedSymbolError) as caught:
        refusal.dylib.lookup(name)
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert caught.value.symbols == (name,)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", [chr(0xD800), chr(0xDBFF), chr(0xDC7F), "a" + chr(0xDFFF)])
@told_in_ascii
def test_surrogates_that_stand_for_no_byte(
    session: tol.Session, compile: Compiler, name: str
) -> None:
    dylib = session.load(exporting(compile, b"\xff"))
    calls: list[Callable[[], object]] = [
        lambda: dylib[name],
        lambda: dylib.get_function(name),
        lambda: dylib.lookup(name),
    ]
    for call in calls:
        with pytest.raises((tol.ObjectLoaderError, ValueError, TypeError)) as caught:
            call()
        assert not isinstance(caught.value, UnicodeDecodeError)
        str(caught.value)
    assert name not in dylib
    assert dylib["\udcff"](1) == 101


@told_in_ascii
def test_errors_that_name_symbols_that_are_not_utf8(refusal: Refusal, compile: Compiler) -> None:
    undefined = compile('extern int u __asm__("\\377und");\nint* use(void) { return &u; }\n')
    with refusal.of(tol.UndefinedSymbolError, undefined, "\udcffund") as error:
        refusal.dylib.load(undefined)
    assert isinstance(error.value, tol.UndefinedSymbolError)
    assert error.value.symbols == ("\udcffund",)
    twice = compile('int d __asm__("d\\377p");\nint e __asm__("_ZN\\3771eE");\n')
    with refusal.of(tol.DuplicateSymbolError, "d\udcffp") as error:
        refusal.dylib.load([twice, twice])
    assert isinstance(error.value, tol.DuplicateSymbolError)
    assert sorted(error.value.symbols) == sorted(["d\udcffp", "_ZN\udcff1eE"])
    dylib = refusal.session.load(exporting(compile, b"\xff"))
    with refusal.of(tol.DuplicateSymbolError, "__tvm_ffi_\udcff"):
        dylib.load(exporting(compile, b"\xff"))
    dylib.close()
    far = compile('__asm__(".globl f\\377r\\n .set f\\377r, 0x123456789abcdef0");\n')
    user = 'extern char far __asm__("f\\377r");\nint near(void) { return (int)(long)&far; }\n'
    near = compile(user, "-O1", "-fno-pic", "-Wno-pointer-to-int-cast")
    with refusal.of(tol.LinkError, near, "f\udcffr"):
        refusal.dylib.load([far, near])
    local = compile('extern _Thread_local int t __asm__("t\\377");\nint f(void) { return t; }\n')
    ordinary = compile('int t __asm__("t\\377");\n')
    with refusal.of(tol.LinkError, "t\udcff", "thread-local"):
        refusal.dylib.load([local, ordinary])


@told_in_ascii
def test_initializers_that_throw_beside_such_names(refusal: Refusal, compile: Compiler) -> None:
    source = """
    #include <stdexcept>
    int init(void) __asm__("in\\377t");
    int init(void) { throw std::runtime_error("b\\377d"); }
    static int value = init();
    """
    with refusal.of(tol.LinkError, "initializer") as caught:
        refusal.dylib.load(compile.cxx(source))
    str(caught.value).encode("utf-8", "surrogateescape")


@told_in_ascii
def test_sections_and_members_whose_names_are_not_utf8(
    refusal: Refusal, session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    content = function(Section(".odd.name", 0x60001234, SHF_ALLOC, bytes(8)))
    content = content.replace(b".odd.name", b".odd\xffname")
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".odd\udcffname"):
        refusal.dylib.load(content)
    missing = compile("int missing(void);\nint use(void) { return missing(); }\n")
    member = tmp_path / os.fsdecode(b"m\xff.o")
    member.write_bytes(missing.read_bytes())
    archive = tmp_path / os.fsdecode(b"lib\xfe.a")
    subprocess.run(["ar", "rc", archive, member], check=True)
    with refusal.of(tol.UndefinedSymbolError, f"{archive}(m\udcff.o)"):
        refusal.dylib.load(archive, whole_archive=True)
    good = tmp_path / os.fsdecode(b"g\xff.o")
    good.write_bytes(exporting(compile, b"\xff").read_bytes())
    assert session.load(good)["\udcff"](2) == 102
    with refusal.of(FileNotFoundError) as caught:
        refusal.dylib.load(tmp_path / os.fsdecode(b"absent\xff.o"))
    assert isinstance(caught.value, OSError)
    assert os.fsencode(caught.value.filename).endswith(b"absent\xff.o")


DYLIB_NAMES = [*map(text, (b"\xff", b"d\xff\xfe", b"\x80", b"\xc3\xa4\xffb")), chr(0xD800)]


@pytest.fixture
def named() -> Iterator[tol.Session]:
    """Return a session whose name is no text, or one with a name of text where that is refused."""
    refusals: list[Exception] = []
    try:
        session = tol.Session("s\udcff")
    except (TypeError, ValueError) as error:
        refusals.append(error)
        session = tol.Session()
    assert refusals or session.name == "s\udcff"
    assert not any(isinstance(error, UnicodeDecodeError) for error in refusals)
    with session:
        yield session


@pytest.mark.parametrize("name", DYLIB_NAMES)
@told_in_ascii
def test_names_of_sessions_and_dylibs(named: tol.Session, add_object: Path, name: str) -> None:
    assert "session" in repr(named).lower()
    with pytest.raises(KeyError):
        named[name]
    refusals: list[Exception] = []
    try:
        dylib = named.create_dylib(name)
    except (TypeError, ValueError, tol.ObjectLoaderError) as error:
        refusals.append(error)
    if refusals:
        # To refuse such a name is right, as long as that is what is said.
        assert not isinstance(refusals[0], UnicodeDecodeError)
        for load in (named.load, named.load_module):
            with pytest.raises(type(refusals[0])):
                load(add_object, name=name)
        assert list(named.dylibs) == []
        return
    assert dylib.name == name
    assert list(named.dylibs) == [name]
    assert named[name] == dylib
    dylib.load(add_object)
    assert dylib["add"](1, 2) == 3
    for shown in (repr(dylib), repr(named), repr(named.dylibs)):
        assert shown
    with pytest.raises(tol.FunctionNotFoundError):
        dylib["nope"]
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("nope")
    with pytest.raises(tol.DuplicateSymbolError):
        dylib.load(add_object)
    with pytest.raises(tol.ObjectLoaderError):
        named.create_dylib(name)
    with pytest.raises(KeyError):
        named["other"]
    user = named.create_dylib("user", link_order=[dylib])
    assert user.link_order == [dylib]
    assert user.lookup("__tvm_ffi_add") == dylib.lookup("__tvm_ffi_add")
    dylib.close()
    with pytest.raises(tol.SessionClosedError):
        dylib["add"]
    assert named.load(add_object, name=name).name == name
