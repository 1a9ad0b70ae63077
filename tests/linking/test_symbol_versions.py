# SPDX-License-Identifier: Apache-2.0
"""Versions of symbols: of shared libraries that code is linked to, of the process, of objects."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from conftest import RunScript
from processors import PROCESSOR

pytestmark = pytest.mark.matrix

both_makes = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
both_ways = pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])

SCRIPT = """
V1 { global: foo; number; __tvm_ffi_*; };
V2 { global: foo; } V1;
V3 { global: foo; local: *; } V2;
"""


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the linker's option that names the versions V1, V2 and V3."""
    path = tmp_path_factory.mktemp("versions") / "script.map"
    path.write_text(SCRIPT)
    return f"-Wl,--version-script={path}"


Loaded = tol.Dylib | tvm_ffi.Module
Outcome = list[int] | tuple[str, ...]

# What gives the number, under the name.
DEFINITIONS = {
    "function": "int64_t NAME(void) { return NUMBER; }\n",
    "indirect function": """
        static int64_t NAME_target(void) { return NUMBER; }
        static void* NAME_resolver(void) { return (void*)NAME_target; }
        int64_t NAME(void) __attribute__((ifunc("NAME_resolver")));
    """,
    "variable": "int64_t NAME = NUMBER;\n",
    "thread-local variable": "_Thread_local int64_t NAME = NUMBER;\n",
}
USES = {
    "function": ("int64_t NAME(void)", "NAME()"),
    "indirect function": ("int64_t NAME(void)", "NAME()"),
    "variable": ("extern int64_t NAME", "NAME"),
    "thread-local variable": ("extern _Thread_local int64_t NAME", "NAME"),
}
kinds = pytest.mark.parametrize("kind", DEFINITIONS)


def definitions(names: Sequence[str], kind: str = "function", start: int = 1) -> str:
    """Give a source that defines these names, with versions or without; they give 1, 2, …."""
    source = "\n#include <stdint.h>\n"
    for number, name in enumerate(names, start):
        c_name = f"definition{number}" if "@" in name else name
        source += DEFINITIONS[kind].replace("NAME", c_name).replace("NUMBER", str(number))
        if c_name != name:
            source += f'__asm__(".symver {c_name}, {name}");\n'
    return source


def use(references: Sequence[str], kind: str = "function", weak: bool = False) -> str:
    """Give a source of the functions run0, run1, …, which return what these names give."""
    source = '\n#include "safe_call.h"\n'
    for number, reference in enumerate(references):
        c_name = f"reference{number}" if "@" in reference else reference
        declaration, value = (text.replace("NAME", c_name) for text in USES[kind])
        source += declaration + " __attribute__((weak))" * weak + ";\n"
        if c_name != reference:
            source += f'__asm__(".symver {c_name}, {reference}");\n'
        if weak:
            value = f"!&{c_name} ? -1 : {value}"
        source += f"EXPORT(run{number}) {{ RETURN({value}); }}\n"
    return source


def outcome(load: Callable[[], Loaded], references: Sequence[str]) -> Outcome:
    """Return what the functions of `use` give, or what is missing."""
    try:
        loaded = load()
    except tol.UndefinedSymbolError as error:
        assert all(symbol in str(error) for symbol in error.symbols)  # noqa: PT017
        return tuple(sorted(error.symbols))
    return [loaded.get_function(f"run{number}")() for number in range(len(references))]


def loaded(
    session: tol.Session,
    objects: Path | Sequence[Path],
    references: Sequence[str],
    link_order: Sequence[tol.Dylib | Path] = (),
) -> Outcome:
    return outcome(lambda: session.load(objects, link_order=link_order), references)


def linked(
    compile: Compiler, objects: Sequence[Path], references: Sequence[str], *flags: str
) -> Outcome:
    """Return the same of the linked library; nothing may be missing when it is linked."""
    try:
        path = compile.link(*objects, flags=("-Wl,-z,defs", *flags), quiet=True)
    except subprocess.CalledProcessError as error:
        said = subprocess.run(error.cmd, capture_output=True, text=True, check=False).stderr
        return tuple(sorted({name for name in references if f"reference to `{name}'" in said}))
    return outcome(lambda: tvm_ffi.load_module(path, keep_module_alive=False), references)


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
REFERENCES = ["foo", "foo@V1", "foo@V2", "foo@V3", "foo@NOPE"]


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


def expected(
    symbols: Sequence[str], references: Sequence[str], unversioned: Sequence[str] = ("",)
) -> Outcome:
    """Return what is to come of references to these symbols, those of no version being in one."""
    numbers: dict[str, int] = {}
    for number, symbol in enumerate(symbols, 1):
        name, _, version = symbol.partition("@")
        is_default = version.startswith("@") or "@" not in symbol
        versions = [version.strip("@")] if "@" in symbol else unversioned
        numbers.update({f"{name}@{each}": number for each in versions if each})
        if is_default:
            numbers[name] = number
    asked = [reference.replace("@@@", "@") for reference in references]
    missing = {each for each in asked if each not in numbers}
    return tuple(sorted(missing)) if missing else [numbers[each] for each in asked]


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


# Objects whose own symbols have versions: the linker's script is only for the oracle.

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
