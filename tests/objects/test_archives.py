# SPDX-License-Identifier: Apache-2.0
"""Archives: which members a load links, as the linker does, and which archives are refused."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from archives import MakeArchive
from compilation import CLANG, Compiler
from conftest import RunScript, Trace
from processors import OTHER
from refusal import Refusal

LLVM_AR = shutil.which(f"llvm-ar{Path(CLANG.cc).name.removeprefix('clang')}") if CLANG else None
needs_llvm_ar = pytest.mark.skipif(LLVM_AR is None, reason="no llvm-ar")

EVENT = """
#include "safe_call.h"
#include "trace.h"
__attribute__((constructor)) static void init(void) { trace(EVENT); }
"""


def member(compile: Compiler, event: int, code: str, *flags: str) -> Path:
    """Compile an object that traces `event` when it is initialized."""
    return compile(f"{EVENT}\n{code}\n", *(flags or ("-O1", "-fPIC")), f"-DEVENT={event}")


def compare(
    session: tol.Session,
    compile: Compiler,
    trace: Trace,
    inputs: list[Path],
    *,
    whole_archive: bool = False,
) -> tuple[list[int], tol.Dylib, tvm_ffi.Module]:
    """Load inputs, and link and dlopen them: what is initialized, and in which order, is the same.

    Return that, with what was loaded.
    """
    flags = ["-Wl,--whole-archive" if whole_archive else "-Wl,--start-group"]
    flags += [*map(str, inputs)]
    flags += ["-Wl,--no-whole-archive" if whole_archive else "-Wl,--end-group"]
    assert trace.take() == []
    dylib = session.load(inputs, whole_archive=whole_archive)
    ours = trace.take()
    module = tvm_ffi.load_module(compile.link(flags=tuple(flags)), keep_module_alive=False)
    assert ours == trace.take()
    return ours, dylib, module


def test_members_are_pulled_in_on_demand(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    user = member(compile, 1, "int first(void); EXPORT(use) { RETURN(first() + INT(0)); }")
    archive = make_archive(
        third=member(compile, 4, "int third(void) { return 3; }"),
        unused=member(compile, 9, "int unused(void) { return 9; }"),
        first=member(compile, 2, "int second(void); int first(void) { return 10 * second(); }"),
        second=member(compile, 3, "int third(void); int second(void) { return 10 * third(); }"),
    )
    events, ours, dlopened = compare(session, compile, trace, [user, archive])
    assert events == [1, 2, 3, 4]
    assert ours["use"](1) == dlopened.use(1) == 301
    assert session.stats().objects == 4
    with pytest.raises(tol.UndefinedSymbolError):
        ours.lookup("unused")


def test_archives_are_searched_until_nothing_more_is_pulled_in(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    user = member(compile, 1, "int a1(void); EXPORT(use) { RETURN(a1()); }")
    first = make_archive(
        a2=member(compile, 2, "int b2(void); int a2(void) { return b2() + 1; }"),
        a1=member(compile, 3, "int b1(void); int a1(void) { return b1() + 10; }"),
    )
    second = make_archive(
        b2=member(compile, 4, "int b2(void) { return 1000; }"),
        b1=member(compile, 5, "int a2(void); int b1(void) { return a2() + 100; }"),
    )
    for inputs in ([user, first, second], [first, user, second], [second, first, user]):
        _, ours, dlopened = compare(session, compile, trace, inputs)
        assert ours["use"]() == dlopened.use() == 1111


def test_the_order_of_members_is_the_linkers(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    needs = [[7, 3], [], [2, 5], [9, 1], [], [4], [0], [2], [], [6, 8]]
    members = {}
    for n, needed in enumerate(needs):
        declared = "".join(f"int f{number}(void); " for number in needed)
        used = ", ".join(["0", *(f"f{number}" for number in needed)])
        code = f"{declared} void* needs{n}[] = {{{used}}}; int f{n}(void) {{ return {n}; }}"
        members[f"m{n}"] = member(compile, 100 + n, code)
    user = member(compile, 1, "int f3(void); EXPORT(use) { RETURN(f3()); }")
    later = member(compile, 2, "int f8(void); EXPORT(use_later) { RETURN(f8()); }")
    events, *_ = compare(session, compile, trace, [user, make_archive(**members), later])
    assert sorted(events) == [1, 2, *range(100, 110)]


def test_an_archive_wins_over_the_link_order_and_the_process(
    session: tol.Session, compile: Compiler, make_archive: MakeArchive
) -> None:
    user = compile(
        '#include "safe_call.h"\nint getpid(void); int level(void);\n'
        "EXPORT(use) { RETURN(getpid() * level()); }\n"
    )
    archive = make_archive(
        pid=compile("int getpid(void) { return -5; }\n"),
        level=compile("int level(void) { return 2; }\n"),
    )
    base = session.load(compile("int level(void) { return 3; }\nint getpid(void) { return 7; }\n"))
    ours = session.load([user, archive], link_order=[base])
    # A dlopened library's own definition comes after the process's.
    linked = compile.link(user, archive, flags=("-Wl,-Bsymbolic",))
    dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
    assert ours["use"]() == dlopened.use() == -10


def test_what_the_load_or_the_dylib_defines_pulls_nothing(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    user = compile('#include "safe_call.h"\nint f(void);\nEXPORT(use) { RETURN(f()); }\n')
    own = compile("int f(void) { return 1; }\n")
    archive = make_archive(f=member(compile, 9, "int f(void) { return 2; }"))
    for inputs in ([user, archive, own], [user, own, archive]):
        assert session.load(inputs)["use"]() == 1
    dylib = session.create_dylib()
    dylib.load(own)
    dylib.load([user, archive])
    assert dylib["use"]() == 1
    assert trace.take() == []
    # What the load of another dylib defines is no reason.
    assert session.load([user, archive])["use"]() == 2
    assert trace.take() == [9]


def test_a_weak_reference_pulls_nothing(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    weak = member(
        compile,
        1,
        "extern __attribute__((weak)) int f(void); EXPORT(use) { RETURN(f ? f() : -1); }",
    )
    strong = member(compile, 2, "int f(void); EXPORT(use_strongly) { RETURN(f()); }")
    archive = make_archive(f=member(compile, 3, "int f(void) { return 2; }"))
    _, ours, dlopened = compare(session, compile, trace, [weak, archive])
    assert ours["use"]() == dlopened.use() == -1
    _, ours, dlopened = compare(session, compile, trace, [weak, strong, archive])
    assert ours["use"]() == dlopened.use() == 2


PROFILED = """
#include "safe_call.h"
__attribute__((section("__llvm_prf_data"), used)) static int64_t data = 5;
EXPORT(NAME) { RETURN(data); }
"""
PROFILE_RUNTIME = """
#include "trace.h"
int __llvm_profile_runtime;
__attribute__((constructor)) static void start(void) { trace(77); }
"""


@pytest.mark.parametrize("within", ["an object", "a member"])
def test_the_runtime_for_profiles_is_pulled_in_though_nothing_refers_to_it(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive, within: str
) -> None:
    """clang's driver sees to it where it links: -u __llvm_profile_runtime."""
    runtime = make_archive(compile(PROFILE_RUNTIME))
    user = compile(PROFILED.replace("NAME", "used"))
    if within == "a member":
        user = make_archive(user)
    assert session.load([user, runtime])["used"]() == 5
    assert trace.take() == [77]
    assert (
        session.load([user])["used"]() == 5
    )  # and where there is none, the profile is not written
    plain = compile(PROFILED.replace("NAME", "used").replace("__llvm_prf_data", "other"))
    dylib = session.load([plain, runtime])
    assert dylib["used"]() == 5
    assert trace.take() == []
    # Once, though each of two loads counts.
    first = session.load([compile(PROFILED.replace("NAME", "used")), runtime])
    first.load([compile(PROFILED.replace("NAME", "again")), runtime])
    assert trace.take() == [77]


def test_common_symbols(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    common = ("-O1", "-fPIC", "-fcommon")
    user = member(compile, 1, "int shared; EXPORT(use) { RETURN(shared); }", *common)
    defines = member(compile, 2, "int shared = 5;")
    too = member(compile, 3, "int shared; int other(void) { return 4; }", *common)
    _, ours, dlopened = compare(session, compile, trace, [user, make_archive(defines=defines)])
    assert ours["use"]() == dlopened.use() == 5
    events, ours, dlopened = compare(session, compile, trace, [user, make_archive(too=too)])
    assert events == [1]
    assert ours["use"]() == dlopened.use() == 0
    wants = member(compile, 4, "extern int shared; EXPORT(use) { RETURN(shared); }")
    for members in ({"a": too, "b": defines}, {"a": defines, "b": too}):
        _, ours, dlopened = compare(session, compile, trace, [wants, make_archive(**members)])
        assert ours["use"]() == dlopened.use() == 5


def test_a_common_symbol_that_the_dylib_defines_pulls_nothing(
    session: tol.Session, compile: Compiler, trace: Trace, make_archive: MakeArchive
) -> None:
    dylib = session.load(compile("int shared = 4;\n"))
    user = compile(
        '#include "safe_call.h"\nint shared;\nEXPORT(use) { RETURN(shared); }\n',
        *("-O1", "-fPIC", "-fcommon"),
    )
    dylib.load([user, make_archive(defines=member(compile, 9, "int shared = 5;"))])
    assert dylib["use"]() == 4
    assert trace.take() == []


FUNCTIONS = {
    "add": "EXPORT(add) { RETURN(INT(0) + INT(1)); }",
    "scale": "int64_t factor(void); EXPORT(scale) { RETURN(INT(0) * factor()); }",
    "factor": "int64_t factor(void) { return 7; }",
    "unused": "int unused(void) { return 9; }",
}


@pytest.fixture
def functions(compile: Compiler, make_archive: MakeArchive) -> Path:
    """Return an archive with two functions, a member that they need and one that they don't."""
    return make_archive(
        **{
            name: member(compile, event, code)
            for event, (name, code) in enumerate(FUNCTIONS.items(), 1)
        }
    )


def test_an_archive_alone_gives_its_functions(
    session: tol.Session, functions: Path, trace: Trace
) -> None:
    loads: list[Callable[[], tol.Dylib | tol.ObjectLoader | tvm_ffi.Module]] = [
        lambda: session.load(functions),
        lambda: session.load(functions.read_bytes()),
        lambda: session.load_module(str(functions)),
        lambda: tol.ObjectLoader().load(functions),
        lambda: tol.load_module(functions),
        lambda: tvm_ffi.load_module(functions, keep_module_alive=False),
    ]
    for load in loads:
        loaded = load()
        assert [loaded["add"](1, 2), loaded["scale"](3)] == [3, 21]
        assert trace.take() == [1, 2, 3]
    dylib = session.load(functions)
    assert dylib.functions == ["add", "scale"]
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("unused")


def test_an_archive_alone_gives_what_belongs_to_its_functions(
    session: tol.Session, compile: Compiler, functions: Path, trace: Trace
) -> None:
    metadata = member(compile, 5, 'const char __tvm_ffi__metadata_add[] = "{}";')
    subprocess.run(["ar", "rc", functions, metadata], check=True)
    assert session.load(functions).lookup("__tvm_ffi__metadata_add")
    assert trace.take() == [1, 2, 3, 5]


def test_whole_archive(
    session: tol.Session, compile: Compiler, functions: Path, trace: Trace, add_object: Path
) -> None:
    events, ours, dlopened = compare(session, compile, trace, [functions], whole_archive=True)
    assert events == [1, 2, 3, 4]
    assert ours["scale"](3) == dlopened.scale(3) == 21
    assert ours.lookup("unused")
    user = member(compile, 5, "int unused(void); EXPORT(use) { RETURN(unused()); }")
    events, *_ = compare(session, compile, trace, [user, functions], whole_archive=True)
    assert events == [5, 1, 2, 3, 4]
    loads: list[Callable[[], object]] = [
        lambda: session.create_dylib().load(functions, whole_archive=True),
        lambda: session.load_module(functions, whole_archive=True),
        lambda: tol.ObjectLoader().load(functions, whole_archive=True),
        lambda: tol.load_module(functions, whole_archive=True),
    ]
    for load in loads:
        load()
        assert trace.take() == [1, 2, 3, 4]
    # An object is what it is.
    assert session.load(add_object, whole_archive=True)["add"](1, 2) == 3


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


def test_an_empty_archive(
    session: tol.Session, refusal: Refusal, add_object: Path, make_archive: MakeArchive
) -> None:
    empty = make_archive()
    assert empty.read_bytes() == b"!<arch>\n"
    assert session.load([add_object, empty])["add"](1, 2) == 3
    for load in refusal.entry_points():
        with refusal.of(tol.ObjectFormatError, empty, "nothing to load"):
            load(empty)
    with refusal.of(tol.ObjectFormatError, empty, "nothing to load"):
        refusal.dylib.load(empty, whole_archive=True)


def test_archives_alone_that_export_nothing(
    refusal: Refusal, compile: Compiler, make_archive: MakeArchive
) -> None:
    archive = make_archive(plain=compile("int plain;\n"))
    with refusal.of(tol.ObjectFormatError, archive, "whole_archive=True"):
        refusal.dylib.load(archive)


def test_a_symbol_that_two_members_define(
    refusal: Refusal, compile: Compiler, make_archive: MakeArchive
) -> None:
    user = compile("int f(void), g(void); int use(void) { return f() + g(); }\n")
    archive = make_archive(
        f=compile("int f(void) { return 1; } int both;\n"),
        g=compile("int g(void) { return 1; } int both;\n"),
    )
    names = [f"{archive}({name}.o)" for name in "fg"]
    with refusal.of(tol.DuplicateSymbolError, "both", *names):
        refusal.dylib.load([user, archive])


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
from archives import MakeArchive

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
