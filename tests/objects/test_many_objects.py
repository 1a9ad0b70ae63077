# SPDX-License-Identifier: Apache-2.0
"""Errors of loads of many objects: the cause first, a few names, how many more there are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Language
from processors import PROCESSOR
from refusal import Refusal

pytestmark = pytest.mark.matrix

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
