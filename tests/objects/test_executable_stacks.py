# SPDX-License-Identifier: Apache-2.0
"""Objects that ask for an executable stack, which the linked library gives to the whole process."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain, both_makes
from refusal import Refusal

pytestmark = pytest.mark.matrix

NESTED = """
#include "safe_call.h"
static int64_t apply(int64_t (*f)(int64_t), int64_t n) { return f(n); }
__attribute__((noinline)) int64_t outer(int64_t n) {
  int64_t inner(int64_t m) { return m + n; }
#ifdef TRAMPOLINE
  int64_t (*volatile function)(int64_t) = inner;
  return apply(function, 1);
#else
  return inner(1);
#endif
}
EXPORT(nested) { RETURN(outer(INT(0))); }
EXPORT(plain) { RETURN(7); }
"""
# What asks for it, and a way out.
ADVICE = r"(?i)executable stack(.|\n)*(noexecstack|nested function)"
NOTE = ".note.GNU-stack"


def nested(compile: Compiler, level: str = "-O2") -> Path:
    return compile(NESTED, level, "-fPIC", "-DTRAMPOLINE", name="nested")


def plain(compile: Compiler, name: str) -> Path:
    return compile(f'#include "safe_call.h"\nEXPORT({name}) {{ RETURN(5); }}\n', name=name)


def without_note(path: Path, made: Path) -> Path:
    subprocess.run(["objcopy", f"--remove-section={NOTE}", path, made], check=True)
    headers = subprocess.run(["readelf", "-SW", made], capture_output=True, text=True, check=True)
    assert NOTE not in headers.stdout
    return made


def stack_of(library: Path) -> str:
    """Return the flags of a library's stack."""
    headers = subprocess.run(
        ["readelf", "-lW", library], capture_output=True, text=True, check=True
    )
    (line,) = [line for line in headers.stdout.splitlines() if "GNU_STACK" in line]
    return "".join(line.split()[6:-1])


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_a_nested_function_whose_address_is_taken(
    refusal: Refusal, compile: Compiler, level: str
) -> None:
    path = nested(compile, level)
    assert stack_of(compile.link(path, quiet=True)) == "RWE"
    for load in refusal.entry_points():
        with refusal.of(tol.ObjectFormatError, path) as caught:
            load(path)
        assert caught.match(ADVICE)
        with refusal.of(tol.ObjectFormatError, "<bytes>") as caught:
            load(path.read_bytes())
        assert caught.match(ADVICE)


def test_a_nested_function_whose_address_is_not_taken(
    session: tol.Session, compile: Compiler
) -> None:
    path = compile(NESTED)
    assert session.load(path)["nested"](5) == compile.dlopen(path).nested(5) == 6


@both_makes
@pytest.mark.parametrize("kind", ["progbits", "nobits", "note"])
def test_a_note_that_asks_for_an_executable_stack(
    refusal: Refusal, compile: Compiler, toolchain: Toolchain, kind: str
) -> None:
    source = f'.section {NOTE}, "x", @{kind}\n.text\n.globl f\nf: ret\n'
    path = compile(source, "-Wa,--no-warn", language="assembler", toolchain=toolchain)
    assert stack_of(compile.link(path, quiet=True)) == "RWE"
    with refusal.of(tol.ObjectFormatError, path) as caught:
        refusal.session.load(path)
    assert caught.match(ADVICE)


@pytest.mark.parametrize("position", range(3))
def test_one_of_several_objects_asks_for_an_executable_stack(
    refusal: Refusal, compile: Compiler, position: int
) -> None:
    bad = nested(compile)
    good = [plain(compile, name) for name in ("first", "second")]
    objects: list[Path | bytes] = [*good]
    objects.insert(position, bad)
    with refusal.of(tol.ObjectFormatError, bad) as caught:
        refusal.session.load(objects)
    assert caught.match(ADVICE)
    for path in good:
        assert str(path) not in str(caught.value)
    objects[position] = bad.read_bytes()
    with refusal.of(tol.ObjectFormatError, "<bytes>") as caught:
        refusal.dylib.load(objects)
    assert caught.match(ADVICE)
    assert sorted(refusal.session.load(good).functions) == ["first", "second"]


def test_a_member_of_an_archive_asks_for_an_executable_stack(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    archive, bad = tmp_path / "some.a", nested(compile)
    subprocess.run(["ar", "rc", archive, bad, plain(compile, "first")], check=True)
    needs = compile(
        '#include "safe_call.h"\nint64_t outer(int64_t n);\nEXPORT(run) { RETURN(outer(1)); }\n'
    )
    objects: list[Path] | Path
    for objects, whole in (([needs, archive], False), (archive, False), (archive, True)):
        with refusal.of(tol.ObjectFormatError, archive, bad.name) as caught:
            refusal.session.load(objects, whole_archive=whole)
        assert caught.match(ADVICE)
    # A member that nobody needs asks for nothing.
    assert refusal.session.load([plain(compile, "second"), archive])["second"]() == 5


@pytest.mark.parametrize("beside", [True, False], ids=["beside another", "alone"])
def test_an_object_without_a_note_of_its_stack(
    session: tol.Session, compile: Compiler, add_object: Path, beside: bool, tmp_path: Path
) -> None:
    """The linker takes it to ask for an executable stack; most such objects come from assembler."""
    path = without_note(plain(compile, "first"), tmp_path / "without.o")
    dylib = session.load([add_object, path] if beside else path)
    assert dylib["first"]() == 5
    assert session.load(path.read_bytes())["first"]() == 5


def test_an_object_whose_note_was_removed(
    session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    path = without_note(nested(compile), tmp_path / "without.o")
    assert session.load(path)["plain"]() == 7
