# SPDX-License-Identifier: Apache-2.0
"""Odd members of archives, errors of loads of many objects, malformed embedded libraries."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler, Language
from conftest import RunScript
from elf_writer import SHF_ALLOC, Section, function
from processors import PROCESSOR
from refusal import Refusal

pytestmark = pytest.mark.matrix

GOOD = "long good(long n) { return n + 5; }\n"
OTHER = "long other(void) { return 6; }\n"
NEEDS_GOOD = """
#include "safe_call.h"
long good(long);
EXPORT(run) { RETURN(good(INT(0))); }
"""
NEEDS_BOTH = """
#include "safe_call.h"
long good(long), other(void);
EXPORT(run) { RETURN(good(INT(0)) + other()); }
"""
# Does the jobs, each a load, and says what came of it.
LOAD = """
import json
import pathlib
import sys

import tvm_ffi_object_loader as tol

session = tol.Session()
good = session.load(sys.argv[2])
for objects, whole in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    before = session.stats().as_dict()
    try:
        loaded = session.load(objects, whole_archive=whole)
        said = {"results": [loaded["run"](n) for n in range(3)]}
        loaded.close()
    except (tol.ObjectLoaderError, OSError) as error:
        typed = isinstance(error, tol.ObjectLoaderError)
        said = {"error": str(error), "typed": typed, "filename": getattr(error, "filename", None)}
        after = session.stats().as_dict()
        keys = ("dylibs", "objects", "symbols", "bytes_code", "bytes_data")
        assert all(before[key] == after[key] for key in keys), (before, after)
    assert good["add"](1, 2) == 3
    print(json.dumps(said))
"""
Job = tuple[list[Path], bool]  # what to load, whether all members


def foreign(compile: Compiler) -> Path:
    """Return an object for another machine."""
    content = bytearray(compile(OTHER).read_bytes())
    content[18] = 183
    path = compile(OTHER).with_name("foreign.o")
    path.write_bytes(content)
    return path


def program(compile: Compiler, *flags: str) -> Path:
    main = compile(f"int main(void) {{ return 0; }}\n{OTHER}")
    path = main.with_name(f"program{len(flags)}")
    subprocess.run(["gcc", *flags, main, "-o", path], check=True)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def inner(compile: Compiler, folder: Path) -> Path:
    path = folder / "inner.a"
    subprocess.run(["ar", "rc", path, compile(OTHER, name="inside")], check=True)
    return path


Make = Callable[[Compiler, Path], Path]
MEMBERS: dict[str, Make] = {
    "library": lambda compile, folder: compile.link(compile(OTHER)),
    "program": lambda compile, folder: program(compile),
    "fixed program": lambda compile, folder: program(compile, "-no-pie"),
    "text": lambda compile, folder: written(folder / "notes.txt", b"some text\n" * 20),
    "nothing": lambda compile, folder: written(folder / "empty.o", b""),
    "linker script": lambda compile, folder: written(folder / "l.so", b"INPUT(libm.so.6)\n"),
    "archive": inner,
    "machine code of another": lambda compile, folder: foreign(compile),
    "half an object": lambda compile, folder: written(
        folder / "half.o", compile(OTHER).read_bytes()[:300]
    ),
    "bitcode": lambda compile, folder: written(folder / "b.o", b"BC\xc0\xde" + bytes(200)),
    "zeros": lambda compile, folder: written(folder / "zeros.o", bytes(4096)),
    "only the magic": lambda compile, folder: written(folder / "magic.o", b"\x7fELF"),
    "odd section": lambda compile, folder: written(
        folder / "odd.o", function(Section(".odd", 0x60001234, SHF_ALLOC, bytes(8)))
    ),
}
RIGHT = [5, 6, 7]


def outcomes(
    run_script: RunScript, add_object: Path, folder: Path, jobs: list[Job]
) -> list[dict[str, object]]:
    """Load in a process of its own, which may crash."""
    path = folder / "jobs.json"
    path.write_text(json.dumps([[[str(file) for file in files], whole] for files, whole in jobs]))
    lines = run_script(LOAD, path, add_object).splitlines()
    assert len(lines) == len(jobs)
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("options", ["rc", "rcT", "rcS"])
@pytest.mark.parametrize("kind", MEMBERS)
def test_a_member_that_is_no_object(
    compile: Compiler,
    run_script: RunScript,
    add_object: Path,
    tmp_path: Path,
    kind: str,
    options: str,
) -> None:
    odd = Path(shutil.copy(MEMBERS[kind](compile, tmp_path), tmp_path / "odd_member"))
    good = compile(GOOD, name="good")
    jobs: list[Job] = []
    for name, members in (("last", [good, odd]), ("first", [odd, good])):
        archive = tmp_path / f"{name}.a"
        subprocess.run(["ar", options, archive, *members], check=True, stderr=subprocess.DEVNULL)
        for source, whole in itertools.product((NEEDS_GOOD, NEEDS_BOTH), (False, True)):
            jobs.append(([compile(source), archive], whole))
    # An archive in a thin one is written as its members.
    member = "odd_member" if (kind, options) != ("archive", "rcT") else ""
    for (files, whole), said in zip(
        jobs, outcomes(run_script, add_object, tmp_path, jobs), strict=True
    ):
        user, archive = files
        if user == compile(NEEDS_GOOD):
            if "results" in said:
                # A whole archive has all its members, also those that are refused.
                assert not whole or kind == "archive"
                assert said["results"] == RIGHT
            else:
                assert said["typed"]
                assert member in str(said["error"])
                assert archive.name in str(said["error"])
        elif "results" in said:
            assert said["results"] == [n + 6 for n in RIGHT]
        else:
            assert said["typed"]
            assert "odd_member" in str(said["error"]) or "other" in str(said["error"])


@pytest.mark.parametrize("kind", ["library", "text", "machine code of another"])
@pytest.mark.parametrize("options", ["rc", "rcT"])
def test_members_that_nobody_needs_are_in_nobodys_way(
    compile: Compiler, session: tol.Session, tmp_path: Path, options: str, kind: str
) -> None:
    odd = Path(shutil.copy(MEMBERS[kind](compile, tmp_path), tmp_path / "odd_member"))
    archive = tmp_path / "all.a"
    members = [odd, compile(GOOD, name="good"), odd]
    subprocess.run(["ar", options, archive, *members], check=True, stderr=subprocess.DEVNULL)
    user = compile(NEEDS_GOOD)
    linked = compile.link(user, archive)
    dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
    loaded = session.load([user, archive])
    assert [loaded["run"](n) for n in range(3)] == [dlopened.run(n) for n in range(3)] == RIGHT


def unlink(path: Path) -> None:
    path.unlink()


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_link(to: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(to)

    return make


def delete_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return write


CHANGED: dict[str, Callable[[Path], None]] = {
    "deleted": unlink,
    "folder deleted": delete_the_folder,
    "a folder": make_a_folder,
    "a loop": make_a_link("changed_member.o"),
    "a link to nothing": make_a_link("nowhere"),
    "the folder is a file": replace_the_folder,
    "cut": rewrite(lambda content: content[:100]),
    "emptied": rewrite(lambda content: b""),
    "text": rewrite(lambda content: b"text " * 1000),
    "larger": rewrite(lambda content: content + bytes(5000)),
}


@pytest.mark.parametrize("how", CHANGED)
def test_a_member_of_a_thin_archive_that_changed(
    compile: Compiler, run_script: RunScript, add_object: Path, tmp_path: Path, how: str
) -> None:
    (tmp_path / "folder").mkdir()
    member = Path(shutil.copy(compile(OTHER), tmp_path / "folder" / "changed_member.o"))
    good = Path(shutil.copy(compile(GOOD), tmp_path / "good.o"))
    names = [str(path.relative_to(tmp_path)) for path in (member, good)]
    jobs: list[Job] = []
    for name, members in (("first.a", names), ("last.a", names[::-1])):
        subprocess.run(["ar", "rcT", name, *members], cwd=tmp_path, check=True)
        for source, whole in ((NEEDS_GOOD, False), (NEEDS_GOOD, True), (NEEDS_BOTH, False)):
            jobs.append(([compile(source), tmp_path / name], whole))
    CHANGED[how](member)
    for (files, whole), said in zip(
        jobs, outcomes(run_script, add_object, tmp_path, jobs), strict=True
    ):
        both = files[0] == compile(NEEDS_BOTH)
        if "results" in said:
            assert how == "larger" or not (whole or both)
            assert said["results"] == ([n + 6 for n in RIGHT] if both else RIGHT)
        elif said["typed"]:
            assert "changed_member.o" in str(said["error"])
        else:
            assert str(said["filename"]).endswith("changed_member.o")


# Errors of loads of many objects: the cause first, a few names, how many more there are.

LENGTH = 3000
FEW = 12


def brief(error: BaseException, cause: str, symbols: list[str], objects: list[str]) -> None:
    """The message says the cause first, and of the many names a few."""
    said = str(error)
    assert len(said) < LENGTH
    assert cause in said[:600]
    listed = [name for name in symbols if name in said]
    named = [name for name in objects if name in said]
    assert len(listed) <= FEW
    assert len(named) <= FEW
    if len(symbols) > FEW:
        assert listed
        assert f"and {len(symbols) - len(listed)} more" in said
    if len(objects) > FEW:
        assert named


def many(
    compile: Compiler,
    count: int,
    source: str,
    folder: Path,
    *flags: str,
    language: Language = "c",
) -> list[Path]:
    """Make `count` objects of `source`, where {n} is the number, in three digits."""
    folder.mkdir()
    template = compile(source.replace("{n}", "QXQ"), *flags, language=language).read_bytes()
    made = []
    for n in range(count):
        made.append(folder / f"object_{n:03}.o")
        made[-1].write_bytes(template.replace(b"QXQ", b"%03d" % n))
    return made


def archive_of(objects: list[Path]) -> Path:
    path = objects[0].parent / "all.a"
    # Plugins of the archiver print what they think of members that are malformed.
    subprocess.run(["ar", "rc", path, *objects], check=True, capture_output=True)
    return path


MISSING = "int missing_{n}(void);\nint use_{n}(void) { return missing_{n}(); }\n"


@pytest.mark.parametrize("count", [50, 300])
@pytest.mark.parametrize("form", ["archive", "objects"])
def test_undefined_symbols_of_many_objects(
    refusal: Refusal, compile: Compiler, tmp_path: Path, form: str, count: int
) -> None:
    symbols = [f"missing_{n:03}" for n in range(count)]
    objects = many(compile, count, MISSING, tmp_path / "sources")
    given = archive_of(objects) if form == "archive" else objects
    names = [path.name for path in objects]
    with refusal.of(tol.UndefinedSymbolError) as caught:
        refusal.dylib.load(given, whole_archive=True)
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert sorted(caught.value.symbols) == symbols
    brief(caught.value, "undefined symbol", symbols, names)
    for load in (refusal.session.load, refusal.session.load_module):
        with refusal.of(tol.UndefinedSymbolError) as caught:
            load(given, whole_archive=True)
        brief(caught.value, "undefined symbol", symbols, names)


def test_one_undefined_symbol_that_many_objects_use(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    source = MISSING.replace("missing_{n}", "missing_everywhere")
    objects = many(compile, 120, source, tmp_path / "sources")
    for given in (objects, archive_of(objects)):
        with refusal.of(tol.UndefinedSymbolError, "missing_everywhere") as caught:
            refusal.dylib.load(given, whole_archive=True)
        assert isinstance(caught.value, tol.UndefinedSymbolError)
        assert caught.value.symbols == ("missing_everywhere",)
        brief(caught.value, "undefined symbol", [], [path.name for path in objects])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_undefined_symbols_are_all_named(
    refusal: Refusal, compile: Compiler, tmp_path: Path, count: int
) -> None:
    innocent = many(compile, 60, "int innocent_{n};\n", tmp_path / "innocent")
    objects = many(compile, count, MISSING, tmp_path / "sources")
    symbols = [f"missing_{n:03}" for n in range(count)]
    named = [*symbols, *(path.name for path in objects)]
    with refusal.of(tol.UndefinedSymbolError, *named) as caught:
        refusal.dylib.load([*innocent, *objects])
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert sorted(caught.value.symbols) == symbols
    brief(caught.value, "undefined symbol", symbols, [])
    assert str(caught.value).count("/innocent/") <= FEW
    assert not re.search(r"missing_\d+.*\band \d+ more", str(caught.value))


def test_long_names_of_undefined_symbols(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    source = """
    #include <map>
    #include <string>
    #include <vector>
    using Long = std::map<std::string, std::vector<std::map<std::string, std::string>>>;
    Long missing_{n}(const Long&, std::vector<Long>, std::map<std::string, Long>);
    unsigned long use_{n}(Long a) { return missing_{n}(a, {a}, {}).size(); }
    """
    objects = many(compile, 20, source, tmp_path / "sources", "-O0", "-fPIC", language="c++")
    with refusal.of(tol.UndefinedSymbolError, "missing_") as caught:
        refusal.dylib.load(objects)
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert len(caught.value.symbols) == 20
    assert all(symbol.startswith("_Z11missing_") for symbol in caught.value.symbols)
    assert "undefined symbol" in str(caught.value)[:600]


TWICE = "int twice_{n} = 1;\nint own_FILE_{n};\n"


@pytest.mark.parametrize("count", [50, 300])
@pytest.mark.parametrize("form", ["archive", "objects", "two objects", "later load"])
def test_duplicate_symbols_of_many_objects(
    refusal: Refusal, compile: Compiler, tmp_path: Path, form: str, count: int
) -> None:
    symbols = [f"twice_{n:03}" for n in range(count)]
    if form in ("archive", "objects"):
        first, second = (
            many(compile, count, TWICE.replace("FILE", name), tmp_path / name) for name in "ab"
        )
    else:
        first, second = (
            many(
                compile,
                1,
                "".join(
                    TWICE.replace("FILE", name).replace("{n}", f"{n:03}") for n in range(count)
                ),
                tmp_path / name,
            )
            for name in "ab"
        )
    into, given = refusal.dylib, [*first, *second]
    if form == "archive":
        given = [archive_of(first), archive_of(second)]
    elif form == "later load":
        into, given = refusal.session.load(first, name="earlier"), second
    with refusal.of(tol.DuplicateSymbolError) as caught:
        into.load(given, whole_archive=True)
    assert isinstance(caught.value, tol.DuplicateSymbolError)
    assert sorted(caught.value.symbols) == symbols
    brief(caught.value, "duplicate symbol", symbols, [path.name for path in first])
    if form == "later load":
        into.close()


def test_one_symbol_that_many_objects_define(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    objects = many(compile, 100, "int everywhere = 1;\nint own_{n};\n", tmp_path / "sources")
    for given in (objects, archive_of(objects)):
        with refusal.of(tol.DuplicateSymbolError, "everywhere") as caught:
            refusal.dylib.load(given, whole_archive=True)
        assert isinstance(caught.value, tol.DuplicateSymbolError)
        assert caught.value.symbols == ("everywhere",)
        brief(caught.value, "duplicate symbol", [], [path.name for path in objects])


@pytest.mark.parametrize("bad", [1, 100])
def test_relocations_out_of_range_in_many_objects(
    refusal: Refusal, compile: Compiler, tmp_path: Path, bad: int
) -> None:
    assembly = ".globl far_{n}\nfar_{n} = 0x123456789abc0000\n"
    far = many(compile, bad, assembly, tmp_path / "far", language="assembler")
    assembly = ".text\n.globl near_{n}\nnear_{n}: movl $far_{n}, %eax\n ret\n"
    near = many(compile, bad, assembly, tmp_path / "near", language="assembler")
    innocent = many(compile, 50, "int innocent_{n};\n", tmp_path / "innocent")
    objects = [*innocent[:25], *far, *near, *innocent[25:]]
    for given in (objects, archive_of(objects) if bad == 1 else objects[::-1]):
        with refusal.of(tol.LinkError, "far_") as caught:
            refusal.dylib.load(given, whole_archive=True)
        said = str(caught.value)
        assert len(said) < LENGTH
        assert re.search("out of range|too far|2 GiB", said[:600])
        assert len(re.findall(r"innocent/object_\d+\.o|all\.a\(\w+\.o\)", said)) <= FEW
        assert len(set(re.findall(r"far_\d+", said))) <= FEW
        if bad == 1:
            assert "near/object_000.o" in said or "all.a(object_000.o)" in said


def test_relocations_of_an_unknown_type_in_many_objects(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    kind = f"{PROCESSOR.relocation_prefix}COPY"
    assembly = (
        ".data\n.globl odd_{n}\nodd_{n}: .quad 0\n" + f" .reloc odd_{{n}}, {kind}, odd_{{n}}\n"
    )
    odd = many(compile, 60, assembly, tmp_path / "odd", language="assembler")
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(odd)
    said = str(caught.value)
    assert len(said) < LENGTH
    assert len(set(re.findall(r"object_\d+\.o", said))) <= FEW
    assert re.search(rf"COPY|\b{PROCESSOR.copy}\b|{PROCESSOR.copy:#x}\b", said[:600])


THROWS = """
#include <stdexcept>
#include "safe_call.h"
int init_{n}() { throw std::runtime_error("the cause of it"); }
static int value = init_{n}();
"""


@pytest.mark.parametrize("which", [0, 25, 49])
def test_an_initializer_that_throws_among_many_objects(
    refusal: Refusal, compile: Compiler, tmp_path: Path, which: int
) -> None:
    objects = many(compile, 50, "int innocent_{n};\n", tmp_path / "innocent")
    thrower = compile.cxx(THROWS.replace("{n}", "0"), name="thrower")
    objects.insert(which, thrower)
    for given in (objects, archive_of(objects)):
        with refusal.of(tol.LinkError, "the cause of it", "initializer threw") as caught:
            refusal.dylib.load(given, whole_archive=True)
        said = str(caught.value)
        assert len(said) < LENGTH
        assert "the cause of it" in said[:600]
        assert len(re.findall(r"object_\d+\.o", said)) <= FEW


def test_many_initializers_of_which_the_first_throws(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    source = THROWS.replace('#include "safe_call.h"\n', "")
    objects = many(compile, 40, source, tmp_path / "sources", "-O0", "-fPIC", language="c++")
    with refusal.of(tol.LinkError, "the cause of it", "initializer threw") as caught:
        refusal.dylib.load(objects)
    brief(caught.value, "the cause of it", [], [path.name for path in objects])


def test_no_room_for_many_objects(refusal: Refusal, compile: Compiler, tmp_path: Path) -> None:
    objects = many(compile, 50, "int innocent_{n};\n", tmp_path / "innocent")
    much = compile(
        "static _Thread_local char many[1 << 20];\nchar* use(int n) { return &many[n]; }\n",
        "-O2",
        "-fpie",
    )
    with refusal.of(tol.LinkError, "thread-local", "-fPIC") as caught:
        refusal.dylib.load([*objects, much])
    said = str(caught.value)
    assert len(said) < LENGTH
    assert "thread-local" in said[:600]
    assert len(re.findall(r"object_\d+\.o", said)) <= FEW


@pytest.mark.parametrize("which", [0, 30, 59])
def test_one_malformed_object_among_many(
    refusal: Refusal, compile: Compiler, tmp_path: Path, which: int
) -> None:
    objects = many(compile, 60, "int innocent_{n};\n", tmp_path / "innocent")
    bad = tmp_path / "bad_object.o"
    bad.write_bytes(objects[0].read_bytes()[:-100])
    objects.insert(which, bad)
    for given in (objects, archive_of(objects)):
        with refusal.of(tol.ObjectFormatError, "bad_object.o", "truncated") as caught:
            refusal.dylib.load(given, whole_archive=True)
        assert "object_0" not in str(caught.value)


def test_many_archives(refusal: Refusal, compile: Compiler, tmp_path: Path) -> None:
    objects = many(compile, 20, MISSING, tmp_path / "sources")
    archives = []
    for path in objects:
        archives.append(path.with_suffix(".a"))
        subprocess.run(["ar", "rc", archives[-1], path], check=True)
    symbols = [f"missing_{n:03}" for n in range(20)]
    with refusal.of(tol.UndefinedSymbolError) as caught:
        refusal.dylib.load(archives, whole_archive=True)
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert sorted(caught.value.symbols) == symbols
    brief(caught.value, "undefined symbol", symbols, [path.name for path in archives])


def test_many_good_objects_load(session: tol.Session, compile: Compiler, tmp_path: Path) -> None:
    source = "int value_{n} = 1;\nint get_{n}(void) { return value_{n}; }\n"
    objects = many(compile, 300, source, tmp_path / "sources")
    user = compile(
        '#include "safe_call.h"\n'
        + "".join(f"int get_{n:03}(void);\n" for n in range(300))
        + f"EXPORT(run) {{ RETURN({' + '.join(f'get_{n:03}()' for n in range(300))}); }}\n"
    )
    for given in ([user, *objects], [user, archive_of(objects)]):
        assert session.load(given)["run"]() == 300


# The embedded library (__tvm_ffi__library_bin): what is malformed is an error, as in the peer.


def number(value: int) -> bytes:
    return struct.pack("<Q", value % (1 << 64))


def vector(*values: int) -> bytes:
    return number(len(values)) + b"".join(map(number, values))


def string(value: bytes) -> bytes:
    return number(len(value)) + value


LIBRARY = string(b"_lib")
MALFORMED = {
    "no index": vector() + vector(),
    "no index, but the library": vector() + vector() + LIBRARY,
    "one index": vector(0) + vector(),
    "one index and the library": vector(0) + vector() + LIBRARY,
    "begins with one": vector(1, 1) + vector() + LIBRARY,
    "begins with one of one": vector(1, 1) + vector(0) + LIBRARY,
    "begins far off": vector(1 << 40, 1 << 40) + vector() + LIBRARY,
    "begins below zero": vector(-1, 0) + vector() + LIBRARY,
    "goes down": vector(0, 2, 1, 1) + vector(1, 2) + LIBRARY * 3,
    "goes past the end": vector(0, 1) + vector() + LIBRARY,
    "goes far past the end": vector(0, 1 << 60) + vector(0) + LIBRARY,
    "imports itself": vector(0, 1) + vector(0) + LIBRARY,
    "imports each other": vector(0, 1, 2) + vector(1, 0) + LIBRARY * 2,
    "imports what is not there": vector(0, 1) + vector(7) + LIBRARY,
    "imports below zero": vector(0, 1) + vector(-1) + LIBRARY,
    "imports far off": vector(0, 1) + vector(1 << 61) + LIBRARY,
    "of an unknown kind": vector(0, 0) + vector() + string(b"nokind") + string(b"x"),
    "of no kind": vector(0, 0) + vector() + string(b""),
    "only an index": vector(0),
    "no modules": vector(0, 0) + vector(),
    "fewer modules": vector(0, 1, 1) + vector(1) + LIBRARY,
    "cut kind": vector(0, 0) + vector() + number(4) + b"_l",
    "cut length": vector(0, 0) + vector() + b"\4\0\0",
    "cut index": vector(0, 0)[:-3],
    "cut content": vector(0, 0) + vector() + string(b"nokind") + number(100) + b"x",
    "nothing": b"",
    "one byte": b"\0",
    "large index": number(1 << 60),
    "largest index": number((1 << 64) - 1),
    "large kind": vector(0, 0) + vector() + number(1 << 62) + b"_lib",
    "largest kind": vector(0, 0) + vector() + number((1 << 64) - 1) + b"_lib",
}
# What the linked library and the peer take.
TAKEN = {
    "whole": vector(0, 0) + vector() + LIBRARY,
    "trailing bytes": vector(0, 0) + vector() + LIBRARY + b"xxxx",
    "more trailing bytes": vector(0, 0) + vector() + LIBRARY + bytes(64),
    "unused import": vector(0, 0) + vector(0) + LIBRARY,
    "unused module": vector(0, 0, 0) + vector() + LIBRARY * 2,
}
EMBEDS = """
#include "safe_call.h"
const unsigned char __tvm_ffi__library_bin[] = {BYTES};
void* __tvm_ffi__library_ctx = 0;
EXPORT(run) { RETURN(7); }
EXPORT(context) { RETURN(__tvm_ffi__library_ctx != 0); }
"""


def embedding(compile: Compiler, stream: bytes, name: str) -> Path:
    data = ",".join(map(str, string(stream)))
    return compile(EMBEDS.replace("BYTES", data), "-O1", "-fPIC", name="embedding")


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_library_binary(
    session: tol.Session, compile: Compiler, add_object: Path, kind: str
) -> None:
    path = embedding(compile, MALFORMED[kind], kind)
    good = session.load(add_object)
    before = session.stats().as_dict()

    def check() -> None:
        for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data"):
            assert session.stats().as_dict()[key] == before[key]
        assert good.functions == ["add"]
        assert list(good.module.imports) == []

    loads: list[Callable[[], object]] = [
        functools.partial(good.load, path),
        functools.partial(good.load, [path, compile("int beside;\n")]),
        lambda: session.load(path),
        lambda: session.load_module(path),
        lambda: session.load_module(path.read_bytes()),
    ]
    for load in loads:
        with pytest.raises(RuntimeError) as caught:
            load()
        assert str(caught.value)
        check()
    elsewhere: list[Callable[[], object]] = [
        lambda: tol.load_module(path),
        lambda: tol.ObjectLoader().load(path),
        lambda: tvm_ffi.load_module(path),
    ]
    for load in elsewhere:
        with pytest.raises(RuntimeError):
            load()
    assert good["add"](1, 2) == 3
    good.load(embedding(compile, TAKEN["whole"], "whole"))
    assert [good["run"](), good["context"]()] == [7, 1]
    assert list(good.module.imports) == []


@pytest.mark.parametrize("kind", TAKEN)
def test_a_library_binary_that_is_taken(session: tol.Session, compile: Compiler, kind: str) -> None:
    path = embedding(compile, TAKEN[kind], kind)
    dlopened = compile.dlopen(path)
    assert [dlopened.run(), dlopened.context()] == [7, 1]
    said = ""
    for load in (session.load, session.load_module):
        try:
            loaded = load(path)
        except RuntimeError as error:
            said = str(error)
        else:
            assert [loaded["run"](), loaded["context"]()] == [7, 1]
    # To be strict about what is there for nothing is no fault; about the rest it is.
    assert not said or "trailing" in kind or "unused" in kind
