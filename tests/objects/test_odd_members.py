# SPDX-License-Identifier: Apache-2.0
"""Members of archives that are no objects, and those of thin archives that have changed."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from elf_writer import SHF_ALLOC, Section, function

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
