# SPDX-License-Identifier: Apache-2.0
"""Archives of every make, also thin ones; members for something else, and malformed archives."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from archives import MakeArchive
from compilation import CLANG, Compiler
from conftest import RunScript, Trace
from processors import OTHER
from pulled_members import FUNCTIONS
from pulled_members import functions as functions
from refusal import Refusal

LLVM_AR = shutil.which(f"llvm-ar{Path(CLANG.cc).name.removeprefix('clang')}") if CLANG else None
needs_llvm_ar = pytest.mark.skipif(LLVM_AR is None, reason="no llvm-ar")


def test_an_archive_without_a_symbol_table(
    session: tol.Session, functions: Path, trace: Trace
) -> None:
    subprocess.run(
        ["ar", "rcS", "plain.a", "add.o", "scale.o", "factor.o"], cwd=functions.parent, check=True
    )
    content = (functions.parent / "plain.a").read_bytes()
    assert content[8:10] != b"/ "
    dylib = session.load(content)
    assert [dylib["add"](1, 2), dylib["scale"](3)] == [3, 21]


@needs_llvm_ar
@pytest.mark.parametrize("form", ["gnu", "bsd", "darwin"])
def test_names_of_every_make_of_archive(
    session: tol.Session, compile: Compiler, make_archive: MakeArchive, form: str
) -> None:
    long = "a_name_that_is_longer_than_the_sixteen_characters_of_a_header"
    archive = make_archive(
        **{long: compile("int missing(void); int f(void) { return missing(); }\n")},
        short=compile("int g(void) { return 1; }\n"),
        ar=f"{LLVM_AR} --format={form}",
    )
    user = compile(
        '#include "safe_call.h"\nint f(void), g(void);\nEXPORT(use) { RETURN(f() + g()); }\n'
    )
    with pytest.raises(tol.UndefinedSymbolError) as caught:
        session.load([user, archive])
    assert f"{archive}({long}.o)" in str(caught.value)
    assert caught.value.symbols == ("missing",)
    good = compile("int missing(void) { return 41; }\n")
    assert session.load([user, archive, good])["use"]() == 42


@pytest.mark.parametrize(
    "how", ["absolute", "absolute members", "relative", "below", "through a folder"]
)
def test_a_thin_archive(
    session: tol.Session, functions: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = functions.parent
    names = [f"{name}.o" for name in FUNCTIONS]
    given: Path | str = folder / "thin.a"
    if how == "below":
        (folder / "sub").mkdir()
        for name in names:
            (folder / name).rename(folder / "sub" / name)
        names = [f"sub/{name}" for name in names]
    elif how == "absolute members":
        names = [str(folder / name) for name in names]
    subprocess.run(["ar", "rcT", "thin.a", *names], cwd=folder, check=True)
    assert (folder / "thin.a").read_bytes().startswith(b"!<thin>\n")
    if how == "relative":
        monkeypatch.chdir(folder)
        given = "thin.a"
    elif how == "through a folder":
        monkeypatch.chdir(folder.parent)
        given = f"{folder.name}/./thin.a"
    dylib = session.load(given)
    for name in names:
        (folder / name).write_bytes(b"gone")
    assert [dylib["add"](1, 2), dylib["scale"](3)] == [3, 21]


def test_a_thin_archive_that_lacks_a_file(
    refusal: Refusal, session: tol.Session, compile: Compiler, make_archive: MakeArchive
) -> None:
    archive = make_archive(
        f=compile("int f(void) { return 1; }\n"),
        g=compile("int g(void) { return 2; }\n"),
        options="rcT",
    )
    source = '#include "safe_call.h"\nint FUNCTION(void);\nEXPORT(use) { RETURN(FUNCTION()); }\n'
    f, g = (compile(source, "-O1", "-fPIC", f"-DFUNCTION={name}") for name in "fg")
    gone = archive.parent / "g.o"
    gone.unlink()
    assert session.load([f, archive])["use"]() == 1
    with refusal.of(FileNotFoundError) as caught:
        refusal.dylib.load([g, archive])
    assert isinstance(caught.value, OSError)
    assert caught.value.filename == str(gone)
    with refusal.of(tol.ObjectFormatError, "<bytes>", "thin", "path"):
        refusal.dylib.load([f, archive.read_bytes()])


def test_a_member_that_is_no_object_is_skipped(
    session: tol.Session, refusal: Refusal, functions: Path
) -> None:
    text = functions.parent / "notes.txt"
    text.write_text("odd\n" * 7 + "\n")
    subprocess.run(["ar", "rc", functions, text], check=True)
    assert session.load(functions)["scale"](3) == 21
    with refusal.of(tol.ObjectFormatError, f"{functions}(notes.txt)", "is not an object"):
        refusal.dylib.load(functions, whole_archive=True)


FOREIGN_FLAGS = {
    "bitcode": ("-flto",),
    OTHER.name: (f"--target={OTHER.triple}",),
    "i386": ("--target=i386-linux-gnu",),
    "big-endian": ("--target=s390x-linux-gnu",),
    "Mach-O": ("--target=x86_64-apple-darwin",),
    "COFF": ("--target=x86_64-windows-msvc",),
}


@needs_llvm_ar
@pytest.mark.parametrize("kind", FOREIGN_FLAGS)
def test_members_for_something_else(
    refusal: Refusal,
    session: tol.Session,
    compile: Compiler,
    add_object: Path,
    make_archive: MakeArchive,
    kind: str,
) -> None:
    assert CLANG is not None
    source = "int foreign(void) { return 1; }\n"
    path = compile(source, "-O1", *FOREIGN_FLAGS[kind], toolchain=CLANG, name="foreign")
    user = compile("int foreign(void); int use(void) { return foreign(); }\n")
    alone = make_archive(foreign=path, ar=LLVM_AR)
    for inputs, whole in (([user, alone], False), ([alone], False), ([alone], True)):
        with refusal.of(tol.ObjectFormatError, f"{alone}(foreign.o)", kind):
            refusal.dylib.load(inputs, whole_archive=whole)
    # Beside members that can be loaded it is in nobody's way, unless it is needed.
    good = compile("int good(void) { return 1; }\n")
    beside = make_archive(good=good, foreign=path, ar=f"{LLVM_AR} --format=gnu")
    assert session.load([add_object, beside])["add"](1, 2) == 3
    if kind == "Mach-O":
        user = compile('int use(void) { extern int f(void) __asm__("_foreign"); return f(); }\n')
    with refusal.of(tol.ObjectFormatError, f"{beside}(foreign.o)", kind):
        refusal.dylib.load([user, beside])


def test_members_of_gcc_with_nothing_but_lto(
    refusal: Refusal, compile: Compiler, make_archive: MakeArchive
) -> None:
    slim = compile("int f(void) { return 1; } int g;\n", "-O1", "-flto", "-fno-fat-lto-objects")
    archive = make_archive(slim=slim, ar="gcc-ar")
    for name in "fg":
        user = compile(f"extern int {name}; int* use(void) {{ return &{name}; }}\n")
        with refusal.of(tol.ObjectFormatError, f"{archive}(slim.o)", "-flto"):
            refusal.dylib.load([user, archive])


TRUNCATE = """
import sys
import tvm_ffi_object_loader as tol

content = open(sys.argv[1], "rb").read()
session = tol.Session()
wrong = []
loaded = 0
for length in range(len(content)):
    try:
        session.load(content[:length], name="cut", whole_archive=True).close()
        loaded += 1
    except tol.ObjectFormatError as error:
        if "<bytes>" not in str(error):
            wrong.append((length, str(error)))
print(loaded, wrong)
"""


def test_truncated_at_every_length(
    compile: Compiler, make_archive: MakeArchive, run_script: RunScript
) -> None:
    object_ = compile("int f(void) { return 1; }\n", "-O1")
    name = "a_name_that_is_longer_than_the_sixteen_characters_of_a_header"
    archive = make_archive(**{name: object_}, g=compile("int g;\n", "-O1"))
    # It loads where the first member is whole and nothing of the second is there.
    assert run_script(TRUNCATE, archive) == "1 []\n"


def test_truncated_files_and_members_are_named(
    refusal: Refusal, compile: Compiler, make_archive: MakeArchive, tmp_path: Path
) -> None:
    whole = make_archive(f=compile("int f(void) { return 1; }\n"))
    cut = tmp_path / "cut.a"
    cut.write_bytes(whole.read_bytes()[:-100])
    with refusal.of(tol.ObjectFormatError, cut, "truncated", "reaches past the end"):
        refusal.dylib.load(cut)
    part = tmp_path / "part.o"
    part.write_bytes(compile("int f(void) { return 1; }\n").read_bytes()[:-100])
    archive = make_archive(whole, part, options="rcS")
    user = compile("int f(void); int use(void) { return f(); }\n")
    with refusal.of(tol.ObjectFormatError, f"{archive}(part.o)", "truncated"):
        refusal.dylib.load([user, archive])


def header(name: str, size: object, end: bytes = b"`\n") -> bytes:
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{size:<10}".encode() + end


MALFORMED = {
    "no header": (b"x" * 60, "has no header"),
    "another end of the header": (header("a.o/", 0, b"``"), "has no header"),
    "half a header": (header("a.o/", 0)[:30], "ends within its header"),
    "size is no number": (header("a.o/", "12x"), "size that is no number"),
    "negative size": (header("a.o/", "-2"), "size that is no number"),
    "size past the end": (header("a.o/", 2), "reaches past the end of the file"),
    "largest size": (header("a.o/", 9999999999), "reaches past the end of the file"),
    "long name without a table": (header("/0", 0), "not in the table of names"),
    "long name past its table": (header("//", 4) + b"ab/\n" + header("/4", 0), "offset 72 has a"),
    "long name that is no number": (header("//", 4) + b"ab/\n" + header("/1x", 0), "not in the"),
    "BSD name past the member": (header("#1/20", 4) + b"abcd", "name that reaches past its end"),
    "BSD name of another kind": (header("#1/x", 4) + b"abcd", "name that reaches past its end"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_headers(refusal: Refusal, add_object: Path, kind: str) -> None:
    content, said = MALFORMED[kind]
    with refusal.of(tol.ObjectFormatError, "<bytes>: is truncated or malformed", "offset", said):
        refusal.dylib.load([add_object, b"!<arch>\n" + content])


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\0\0",
        b"\xff\xff\xff\xff",
        struct.pack(">II", 1, 0xFFFFFFFF) + b"foreign",
        struct.pack(">II", 2, 8) + b"foreign\0\0",
    ],
    ids=["empty", "cut", "count", "offset", "offsets"],
)
@pytest.mark.parametrize("name", ["/", "/SYM64/"])
def test_malformed_symbol_tables(
    session: tol.Session, compile: Compiler, add_object: Path, name: str, table: bytes
) -> None:
    if name == "/SYM64/":
        table = b"".join(b"\0\0\0\0" + table[i : i + 4] for i in range(0, 4, 4)) + b"\xff" * 20
    table += b"\0" * (len(table) % 2)
    text = b"text"
    content = b"!<arch>\n" + header(name, len(table)) + table + header("a.txt/", len(text)) + text
    assert session.load([add_object, content])["add"](1, 2) == 3


def test_a_symbol_table_whose_size_wraps_around(session: tol.Session, add_object: Path) -> None:
    table = struct.pack(">Q", 2**61 - 1) + bytes(1 << 24)
    content = b"!<arch>\n" + header("/SYM64/", len(table)) + table + header("a.txt/", 4) + b"text"
    assert session.load([add_object, content])["add"](1, 2) == 3


def test_refusals_of_archives_leave_nothing_behind(
    session: tol.Session, functions: Path, add_object: Path
) -> None:
    good = session.load(add_object)
    before = session.stats()
    content = functions.read_bytes()
    for cut in range(0, len(content) - 8, 97):
        with pytest.raises(tol.ObjectFormatError):
            good.load(content[: cut + 1] + b"x")
    assert session.stats() == before
    assert good.functions == ["add"]
