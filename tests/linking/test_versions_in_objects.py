# SPDX-License-Identifier: Apache-2.0
"""Versions of symbols that objects define: the linker's script is only for the oracle."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain, both_makes
from symbol_versions import REFERENCES, definitions, expected, kinds, linked, loaded, outcome, use
from symbol_versions import script as script

pytestmark = pytest.mark.matrix

both_ways = pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])

OBJECTS = {
    "an old one and a default": ["foo@V1", "foo@@V2"],
    "the default first": ["foo@@V2", "foo@V1"],
    "an old one, and one of three signs": ["foo@V1", "foo@@@V2"],
    "old ones and a default": ["foo@V1", "foo@V2", "foo@@V3"],
    "an old one": ["foo@V1"],
    "old ones": ["foo@V2", "foo@V1"],
    "a default": ["foo@@V2"],
    "one of three signs": ["foo@@@V2"],
    "an old one beside none": ["foo@V1", "foo"],
}


def compiled(
    compile: Compiler, names: Sequence[str], toolchain: Toolchain, kind: str = "function"
) -> list[Path]:
    """Give the objects that define the names, one each."""
    return [
        compile(definitions([name], kind, number), toolchain=toolchain)
        for number, name in enumerate(names, 1)
    ]


@both_makes
@pytest.mark.parametrize("reference", [*REFERENCES, "foo@@@V1", "foo@@@V2"])
@pytest.mark.parametrize("name", OBJECTS)
def test_versions_in_objects(
    session: tol.Session,
    compile: Compiler,
    script: str,
    toolchain: Toolchain,
    reference: str,
    name: str,
) -> None:
    user = compile(use([reference]), toolchain=toolchain)
    definer = compile(definitions(OBJECTS[name]), toolchain=toolchain)
    right = expected(OBJECTS[name], [reference])
    asked = [reference.replace("@@@", "@")]
    definers = compiled(compile, OBJECTS[name], toolchain)
    assert linked(compile, [definer, user], asked, script) == right
    for objects in ([user, definer], [definer, user], [user, *definers]):
        assert loaded(session, objects, asked) == right
    base = session.load(definer)
    assert loaded(session, user, asked, [base]) == right

    def later() -> tol.Dylib:
        base.load(user)
        return base

    assert outcome(later, asked) == right


@both_makes
@pytest.mark.parametrize("name", OBJECTS)
def test_versions_in_one_object(
    session: tol.Session, compile: Compiler, script: str, toolchain: Toolchain, name: str
) -> None:
    """An object that refers to the versions that it defines."""
    references = [each for each in REFERENCES[:4] if expected(OBJECTS[name], [each])[0] != each]
    path = compile(definitions(OBJECTS[name]) + use(references), toolchain=toolchain)
    right = expected(OBJECTS[name], references)
    # Of a definition and a reference of exactly one name clang leaves the reference alone.
    if toolchain is not GCC and {*references} & {*OBJECTS[name]} - {"foo"}:
        with pytest.raises(tol.UndefinedSymbolError):
            session.load(path)
        return
    assert linked(compile, [path], references, script) == right
    assert loaded(session, path, references) == right


@both_makes
@kinds
@both_ways
def test_versions_of_all_kinds_in_objects(
    session: tol.Session,
    compile: Compiler,
    script: str,
    toolchain: Toolchain,
    kind: str,
    together: bool,
) -> None:
    references, names = REFERENCES[:4], ["foo@V1", "foo@V2", "foo@@V3"]
    objects = compiled(compile, names, toolchain, kind)
    user = compile(use(references, kind), toolchain=toolchain)
    assert linked(compile, [*objects, user], references, script) == [3, 1, 2, 3]
    dylib = session.create_dylib()
    for given in [[*objects, user]] if together else [[each] for each in (*objects, user)]:
        dylib.load(given)
    assert outcome(lambda: dylib, references) == [3, 1, 2, 3]


@pytest.mark.parametrize("name", ["an old one and a default", "an old one", "one of three signs"])
def test_versions_in_an_archive(
    session: tol.Session, compile: Compiler, script: str, name: str, tmp_path: Path
) -> None:
    archive = tmp_path / "some.a"
    subprocess.run(["ar", "rc", archive, *compiled(compile, OBJECTS[name], GCC)], check=True)
    for reference in REFERENCES:
        user = compile(use([reference]))
        right = expected(OBJECTS[name], [reference])
        assert linked(compile, [user, archive], [reference], script) == right
        assert loaded(session, [user, archive], [reference]) == right


@pytest.mark.parametrize(
    ("toolchain", "operand"),
    [
        *((toolchain, "remove") for toolchain in TOOLCHAINS),
        (GCC, "local"),
        (GCC, "hidden"),
    ],
)
def test_the_name_that_is_given_a_version(
    session: tol.Session, compile: Compiler, script: str, toolchain: Toolchain, operand: str
) -> None:
    """What a third operand of .symver makes of it."""
    source = definitions(["foo@@V2"]).replace("foo@@V2", f"foo@@V2, {operand}")
    definer = compile(source, toolchain=toolchain)
    own = [1] if operand == "hidden" else ("definition1",)
    for reference, right in (("foo", [1]), ("foo@V2", [1]), ("definition1", own)):
        user = compile(use([reference]), toolchain=toolchain)
        assert linked(compile, [user, definer], [reference], script) == right
        assert loaded(session, [user, definer], [reference]) == right


@both_makes
@both_ways
@pytest.mark.parametrize(
    ("first", "second"),
    [("foo@V1", "foo@V1"), ("foo@@V2", "foo@@V2"), ("foo@@V1", "foo@@V2"), ("foo@@V2", "foo")],
)
def test_a_version_that_is_defined_twice(
    session: tol.Session,
    compile: Compiler,
    script: str,
    toolchain: Toolchain,
    together: bool,
    first: str,
    second: str,
) -> None:
    objects = compiled(compile, [first, second], toolchain)
    with pytest.raises(subprocess.CalledProcessError):
        compile.link(*objects, flags=(script,), quiet=True)
    dylib = session.create_dylib()
    if not together:
        dylib.load(objects[0])
    with pytest.raises(tol.DuplicateSymbolError, match="foo"):
        dylib.load(objects if together else objects[1])


def test_weak_definitions_of_a_version(
    session: tol.Session, compile: Compiler, script: str
) -> None:
    """The first counts; a strong one counts before it. (clang makes none that are weak.)"""
    weak = '__asm__(".weak definition{number}");\n'
    references = ["foo", "foo@V2"]
    first, second = (
        compile(weak.format(number=number) + definitions(["foo@@V2"], start=number))
        for number in (1, 2)
    )
    strong, user = compile(definitions(["foo@@V2"], start=3)), compile(use(references))
    for objects, right in (
        ([first, second, user], [1, 1]),
        ([user, second, first], [2, 2]),
        ([first, strong, user], [3, 3]),
        ([strong, first, user], [3, 3]),
    ):
        assert linked(compile, objects, references, script) == right
        assert loaded(session, objects, references) == right


EXPORTED = """
#include "safe_call.h"
EXPORT(first) { RETURN(10); }
EXPORT(second) { RETURN(20); }
"""


@both_makes
@pytest.mark.parametrize(
    ("names", "exported"),
    [
        (["first, run@@V2"], {"first": 10, "run": 10, "second": 20}),
        (["first, run@@@V2"], {"run": 10, "second": 20}),
        (["first, run@@V2, remove"], {"run": 10, "second": 20}),
        (["first, run@V1"], {"first": 10, "second": 20}),
        (["first, run@V1", "second, run@@V2"], {"first": 10, "run": 20, "second": 20}),
        (["second, run@@V2", "first, run@V1"], {"first": 10, "run": 20, "second": 20}),
    ],
)
def test_exported_functions_that_are_named_by_versions(
    session: tol.Session,
    compile: Compiler,
    script: str,
    toolchain: Toolchain,
    names: list[str],
    exported: dict[str, int],
) -> None:
    source = EXPORTED
    for name in names:
        c_name, _, version = name.partition(", ")
        source += f'__asm__(".symver __tvm_ffi_{c_name}, __tvm_ffi_{version}");\n'
    path = compile(source, toolchain=toolchain)
    dlopened = tvm_ffi.load_module(compile.link(path, flags=(script,)), keep_module_alive=False)
    dylib = session.load(path)
    assert dylib.functions == sorted(exported)
    for name in ("first", "second", "run"):
        if name in exported:
            assert dylib[name]() == dlopened.get_function(name)() == exported[name]
            assert dylib.module.get_function(name)() == exported[name]
            assert name in dylib
        else:
            with pytest.raises(AttributeError):
                dlopened.get_function(name)
            with pytest.raises(tol.FunctionNotFoundError, match=name):
                dylib.get_function(name)
            assert name not in dylib


def test_the_attribute_of_gcc(session: tol.Session, compile: Compiler, script: str) -> None:
    source = """
    #include "safe_call.h"
    __attribute__((symver("foo@V1"))) int64_t old(void) { return 1; }
    __attribute__((symver("foo@@V2"))) int64_t current(void) { return 2; }
    __attribute__((symver("__tvm_ffi_run0@@V2"))) EXPORT(implementation) { RETURN(current()); }
    """
    user = compile(use(["foo", "foo@V1", "foo@V2"]).replace("run0", "run3"))
    objects = [compile(source), user]
    names = ["run0", "run1", "run2", "run3"]
    module = tvm_ffi.load_module(compile.link(*objects, flags=(script,)), keep_module_alive=False)
    dylib = session.load(objects)
    results = [dylib[name]() for name in names]
    assert results == [module.get_function(name)() for name in names] == [2, 1, 2, 2]
