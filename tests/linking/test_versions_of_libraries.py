# SPDX-License-Identifier: Apache-2.0
"""Versions of symbols of shared libraries that code is linked to, and of the process."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain, both_makes
from conftest import RunScript
from processors import PROCESSOR
from symbol_versions import REFERENCES, definitions, expected, kinds, linked, loaded, outcome, use
from symbol_versions import script as script

pytestmark = pytest.mark.matrix


def with_libraries(*libraries: Path) -> list[str]:
    flags = []
    for library in libraries:
        flags += [f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}"]
    return flags


# Shared libraries: what the functions are called there.

LIBRARIES = {
    "no versions": ["foo"],
    "a version of the script's": ["foo"],
    "one version": ["foo@@V3"],
    "old ones and a default": ["foo@V1", "foo@V2", "foo@@V3"],
    "the default first": ["foo@@V3", "foo@V2", "foo@V1"],
    "the default is the oldest": ["foo@@V1", "foo@V2"],
    "the default in the middle": ["foo@V1", "foo@@V2", "foo@V3"],
    "a base and a default": ["foo@", "foo@@V3"],
    "a base, an old one and a default": ["foo@", "foo@V1", "foo@@V3"],
    "an old one": ["foo@V1"],
    "old ones": ["foo@V1", "foo@V2"],
    "a base": ["foo@"],
    "a base and an old one": ["foo@", "foo@V1"],
}


def library(compile: Compiler, script: str, name: str, kind: str = "function") -> Path:
    content = compile(definitions(LIBRARIES[name], kind))
    return compile.link(content, flags=() if name == "no versions" else (script,))


def ways(session: tol.Session, user: Path, library: Path) -> list[Callable[[], tol.Dylib]]:
    """Return all ways to link an object to a library."""

    def later() -> tol.Dylib:
        dylib = session.load(library)
        dylib.load(user)
        return dylib

    return [
        lambda: session.load([user, library]),
        lambda: session.load([str(library), user.read_bytes()]),
        lambda: session.load(user, link_order=[library]),
        lambda: session.load(user, link_order=[session.load(library)]),
        later,
    ]


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_version_of_a_shared_library(
    session: tol.Session, compile: Compiler, script: str, reference: str, name: str
) -> None:
    path, user = library(compile, script, name), compile(use([reference]))
    of_script = ["V1"] if name == "a version of the script's" else []
    right = expected(LIBRARIES[name], [reference], of_script)
    assert linked(compile, [user], [reference], *with_libraries(path)) == right
    for load in ways(session, user, path):
        assert outcome(load, [reference]) == right


@both_makes
@kinds
@pytest.mark.parametrize("name", ["old ones and a default", "the default in the middle"])
def test_all_versions_of_a_shared_library(
    session: tol.Session,
    compile: Compiler,
    script: str,
    toolchain: Toolchain,
    kind: str,
    name: str,
) -> None:
    references = REFERENCES[:4]
    path = library(compile, script, name, kind)
    user = compile(use(references, kind), toolchain=toolchain)
    right = expected(LIBRARIES[name], references)
    assert linked(compile, [user], references, *with_libraries(path)) == right
    for load in ways(session, user, path):
        assert outcome(load, references) == right


@both_makes
def test_all_missing_versions_are_reported(
    session: tol.Session, compile: Compiler, script: str, toolchain: Toolchain
) -> None:
    references = ["foo", "foo@V1", "foo@V3", "foo@NOPE", "foo@nope"]
    path = library(compile, script, "old ones")
    user = compile(use(references), toolchain=toolchain, name="user")
    right = expected(LIBRARIES["old ones"], references)
    assert right == ("foo", "foo@NOPE", "foo@V3", "foo@nope")
    assert linked(compile, [user], references, *with_libraries(path)) == right
    for load in ways(session, user, path):
        assert outcome(load, references) == right


@both_makes
@pytest.mark.parametrize("name", ["old ones and a default", "a base, an old one and a default"])
def test_weak_references_to_versions_of_a_shared_library(
    session: tol.Session, compile: Compiler, script: str, toolchain: Toolchain, name: str
) -> None:
    references = ["foo", "foo@V1", "foo@V3"]
    path = library(compile, script, name)
    user = compile(use(references, weak=True), toolchain=toolchain)
    right = expected(LIBRARIES[name], references)
    assert linked(compile, [user], references, "-Wl,--no-as-needed", *with_libraries(path)) == right
    for load in ways(session, user, path):
        assert outcome(load, references) == right


@both_makes
def test_versions_of_two_shared_libraries(
    session: tol.Session, compile: Compiler, script: str, toolchain: Toolchain
) -> None:
    """A library that has only other versions is passed over."""
    old = compile.link(compile(definitions(["foo@V1"], start=1)), flags=(script,))
    new = compile.link(compile(definitions(["foo@V2", "foo@@V3"], start=2)), flags=(script,))
    references = REFERENCES[:4]
    user = compile(use(references), toolchain=toolchain)
    for order in ([old, new], [new, old]):
        right = linked(compile, [user], references, *with_libraries(*order))
        assert right == [3, 1, 2, 3]
        base = session.load(order[1])
        assert loaded(session, [user, *order], references) == right
        assert loaded(session, user, references, order) == right
        assert loaded(session, [order[0], user], references, order[1:]) == right
        assert loaded(session, [order[0], user], references, [base]) == right


@both_makes
def test_the_default_of_the_first_library_that_has_one(
    session: tol.Session, compile: Compiler, script: str, toolchain: Toolchain
) -> None:
    first = compile.link(compile(definitions(["foo@@V3"], start=1)), flags=(script,))
    second = compile.link(compile(definitions(["foo@@V2"], start=2)), flags=(script,))
    user = compile(use(["foo"]), toolchain=toolchain)
    for order, right in (([first, second], [1]), ([second, first], [2])):
        assert linked(compile, [user], ["foo"], *with_libraries(*order)) == right
        assert loaded(session, [user, *order], ["foo"]) == right
        assert loaded(session, user, ["foo"], order) == right


@both_makes
def test_an_own_definition_comes_before_a_library_of_versions(
    session: tol.Session, compile: Compiler, script: str, toolchain: Toolchain
) -> None:
    path = library(compile, script, "old ones and a default")
    user = compile(use(["foo"]), toolchain=toolchain)
    own = compile(definitions(["foo"], start=70), toolchain=toolchain)
    assert linked(compile, [user, own], ["foo"], *with_libraries(path)) == [70]
    assert loaded(session, [user, own, path], ["foo"]) == [70]
    assert loaded(session, [path, own, user], ["foo"]) == [70]
    base = session.load(own)
    assert loaded(session, user, ["foo"], [base, path]) == [70]
    assert loaded(session, user, ["foo"], [path, base]) == [3]


@pytest.mark.parametrize("name", [name for name in LIBRARIES if "base" not in name])
def test_lookup_finds_the_default(
    session: tol.Session, compile: Compiler, script: str, name: str
) -> None:
    path = library(compile, script, name)
    dylib = session.load(path)
    right = expected(LIBRARIES[name], ["foo"])
    if isinstance(right, tuple):
        with pytest.raises(tol.UndefinedSymbolError, match="foo"):
            dylib.lookup("foo")
    else:
        function = ctypes.CFUNCTYPE(ctypes.c_int64)(dylib.lookup("foo"))
        assert [function()] == right


# The process's.

OF_THE_PROCESS = {
    "memcpy": ["", PROCESSOR.first_glibc, "GLIBC_2.14"],
    "realpath": ["", PROCESSOR.first_glibc, "GLIBC_2.3"],
    "pthread_cond_signal": ["", PROCESSOR.first_glibc, "GLIBC_2.3.2"],
    "dlsym": ["", PROCESSOR.first_glibc, "GLIBC_2.34"],
    "environ": ["", PROCESSOR.first_glibc],
}


@both_makes
@pytest.mark.parametrize("name", OF_THE_PROCESS)
def test_versions_that_the_process_has(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    source = '#include "safe_call.h"\n'
    for number, version in enumerate(OF_THE_PROCESS[name]):
        c_name = f"reference{number}" if version else name
        source += f"extern char {c_name}[];\nEXPORT(run{number}) {{ RETURN({c_name}); }}\n"
        if version:
            source += f'__asm__(".symver {c_name}, {name}@{version}");\n'
    path = compile(source, "-O2", "-fPIC", "-fno-builtin", toolchain=toolchain)
    versions = OF_THE_PROCESS[name]
    right = linked(compile, [path], versions)
    assert len(right) == len(versions)
    assert loaded(session, path, versions) == right


@both_makes
def test_a_version_that_the_process_lacks(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    references = ["memcpy@GLIBC_2.3", "memcpy@NOPE", "getpid@GLIBC_2.14"]
    path = compile(use(references), toolchain=toolchain)
    assert linked(compile, [path], references) == tuple(sorted(references))
    assert loaded(session, path, references) == tuple(sorted(references))


WITH_A_GLOBAL_LIBRARY = """
import ctypes, json, sys
import tvm_ffi, tvm_ffi_object_loader as tol

library, how, *paths = sys.argv[1:]
ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
outcomes = []
for path in paths:
    try:
        load = tol.Session().load if how == "loaded" else tvm_ffi.load_module
        outcomes.append(load(path).get_function("run0")())
    except tol.UndefinedSymbolError as error:
        outcomes.append(list(error.symbols))
print(json.dumps(outcomes))
"""


@kinds
@pytest.mark.parametrize("name", ["old ones and a default", "the default is the oldest"])
def test_versions_of_a_library_that_the_process_has(
    compile: Compiler, script: str, run_script: RunScript, kind: str, name: str
) -> None:
    path = library(compile, script, name, kind)
    found: list[str] = []
    for reference in REFERENCES[:4]:
        if isinstance(expected(LIBRARIES[name], [reference]), list):
            found.append(reference)
    objects = [compile(use([reference], kind)) for reference in found]
    libraries = [compile.link(each, flags=tuple(with_libraries(path))) for each in objects]
    right = [expected(LIBRARIES[name], [reference])[0] for reference in found]
    assert json.loads(run_script(WITH_A_GLOBAL_LIBRARY, path, "dlopened", *libraries)) == right
    assert json.loads(run_script(WITH_A_GLOBAL_LIBRARY, path, "loaded", *objects)) == right
    missing = compile(use(["foo@NOPE"], kind))
    output = run_script(WITH_A_GLOBAL_LIBRARY, path, "loaded", missing)
    assert json.loads(output) == [["foo@NOPE"]]
