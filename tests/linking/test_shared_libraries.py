# SPDX-License-Identifier: Apache-2.0
"""Shared libraries that loaded code links to: given with the objects, or in the link order."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi
from tvm_ffi import libinfo

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from processors import OTHER, X86_64, only_on
from refusal import Refusal
from threads import run_in_threads

LIBRARY = """
#include "safe_call.h"
#include "trace.h"
int64_t answer = NUMBER;
static int64_t one(void) { return 1000 + NUMBER; }
static void* choose(void) { return (void*)one; }
int64_t chosen(void) __attribute__((ifunc("choose")));
int64_t number(void) { return NUMBER; }
__attribute__((weak)) int64_t weakly(void) { return 2000 + NUMBER; }
__attribute__((visibility("hidden"))) int64_t hidden(void) { return 1; }
__attribute__((constructor)) static void init(void) { trace(NUMBER); }
__attribute__((destructor)) static void fini(void) { trace(-NUMBER); }
EXPORT(of_library) { RETURN(NUMBER); }
"""
USER = """
#include "safe_call.h"
extern int64_t answer;
int64_t chosen(void);
int64_t number(void);
int64_t weakly(void);
int64_t absent(void) __attribute__((weak));
int64_t own(void) { return number(); }
EXPORT(use) { RETURN(answer + chosen() + number() + weakly() + (absent ? 1 : 0)); }
EXPORT(set) { RETURN(answer = INT(0)); }
EXPORT(at) { RETURN(&answer); }
"""


@pytest.fixture
def libraries(compile: Compiler) -> list[Path]:
    """Return two libraries that define the same symbols, of this test alone."""
    return [
        compile.link(compile(LIBRARY, "-O2", "-fPIC", f"-DNUMBER={number}")) for number in (1, 2)
    ]


@pytest.fixture
def user(compile: Compiler) -> Path:
    return compile(USER, name="user")


def is_mapped(path: Path) -> bool:
    # To be run: tools that look symbols up map files, too.
    lines = Path("/proc/self/maps").read_text().splitlines()
    return any(str(path) in line and "x" in line.split()[1] for line in lines)


def total(number: int) -> int:
    return number + (1000 + number) + number + (2000 + number)


def in_global_scope(symbol: str) -> bool:
    return hasattr(ctypes.CDLL(None), symbol)


def test_a_library_beside_the_object_gives_what_linking_to_it_gives(
    session: tol.Session, compile: Compiler, libraries: list[Path], user: Path, trace: Trace
) -> None:
    library = libraries[0]
    flags = (f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}")
    linked = compile.link(user, flags=flags)
    dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
    expected, address = dlopened.use(), dlopened.at()
    dylib = session.load([user, library])
    assert dylib["use"]() == expected == total(1)
    # One library, opened twice: the same variable.
    assert dylib["at"]() == dylib.lookup("answer") == address
    assert dylib["set"](50) == 50
    assert dlopened.use() == expected + 49
    assert trace.take() == [1]
    del dlopened
    gc.collect()
    assert dylib["use"]() == expected + 49
    dylib.close()
    assert trace.take() == [-1]


def ways(session: tol.Session, user: Path, library: Path) -> list[Callable[[], tol.Dylib]]:
    def later() -> tol.Dylib:
        dylib = session.create_dylib()
        dylib.load(library)
        dylib.load(user)
        return dylib

    return [
        later,
        lambda: session.load([library, user.read_bytes()]),
        lambda: session.load([user, str(library)]),
        lambda: session.load(user, link_order=[library]),
        lambda: session.load(user, link_order=[str(library)]),
        lambda: session.load(user, link_order=[session.load(library)]),
        lambda: tol.ObjectLoader(session=session).load([user, library]).dylib,
    ]


def test_every_way_to_name_a_library(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace
) -> None:
    before = session.stats().as_dict()
    for load in ways(session, user, libraries[0]):
        dylib = load()
        assert dylib["use"]() == total(1)
        assert dylib.lookup("number")
        assert sorted(dylib.functions) == ["at", "set", "use"]
        assert trace.take() == [1]
        del dylib
        gc.collect()
        assert trace.take() == [-1]
        assert not is_mapped(libraries[0])
    assert session.load_module(user, link_order=[libraries[1]]).use() == total(2)
    assert session.load_module([user, libraries[1]]).use() == total(2)
    gc.collect()
    after = session.stats().as_dict()
    for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data"):
        assert after[key] == before[key]


def test_the_order_decides(session: tol.Session, libraries: list[Path], user: Path) -> None:
    one, two = libraries
    assert session.load([user, one, two])["use"]() == total(1)
    assert session.load([two, user, one])["use"]() == total(2)
    assert session.load(user, link_order=[one, two])["use"]() == total(1)
    assert session.load(user, link_order=[two, one])["use"]() == total(2)
    assert session.load([user, two], link_order=[one])["use"]() == total(2)
    base = session.load(two)
    assert session.load(user, link_order=[base, one])["use"]() == total(2)
    assert session.load(user, link_order=[one, base])["use"]() == total(1)


def test_own_objects_come_first(
    session: tol.Session, compile: Compiler, libraries: list[Path], user: Path
) -> None:
    own = compile("#include <stdint.h>\nint64_t number(void) { return 70; }\n")
    assert session.load([user, own, libraries[0]])["use"]() == total(1) + 69
    base = session.load(own)
    assert session.load(user, link_order=[base, libraries[0]])["use"]() == total(1) + 69
    assert session.load(user, link_order=[libraries[0], base])["use"]() == total(1)


def test_dylibs_with_libraries_of_the_same_symbols_are_isolated(
    session: tol.Session, libraries: list[Path], user: Path
) -> None:
    first, second = (session.load([user, library]) for library in libraries)
    first["set"](10)
    assert first["use"]() == total(1) + 9
    assert second["use"]() == total(2)
    assert not in_global_scope("weakly")
    unlinked = session.create_dylib()
    with pytest.raises(tol.UndefinedSymbolError, match=r"\.so") as caught:
        unlinked.load(user)
    assert set(caught.value.symbols) == {"answer", "chosen", "number", "weakly"}


def test_what_a_library_depends_on_is_found_after_everything_else(
    session: tol.Session, compile: Compiler, libraries: list[Path], user: Path
) -> None:
    one, two = libraries
    upper = compile.link(
        compile("#include <stdint.h>\nint64_t number(void);\nint64_t up(void) { return 1; }\n"),
        flags=("-Wl,--no-as-needed", str(one)),
    )
    assert session.load([user, upper])["use"]() == total(1)
    assert session.load(user, link_order=[upper])["use"]() == total(1)
    assert session.load([user, upper, two])["use"]() == total(2)
    # libc, on which every library depends, does not hide a dylib that is searched later.
    clash = compile("int getpid(void) { return -5; }\n")
    caller = compile(
        '#include "safe_call.h"\nint getpid(void);\nEXPORT(pid) { RETURN(getpid()); }\n'
    )
    base = session.load(clash)
    assert session.load(caller, link_order=[upper, base])["pid"]() == -5
    assert session.load([caller, upper])["pid"]() == os.getpid()


def test_a_library_of_functions_is_no_part_of_the_dylib(
    session: tol.Session, refusal: Refusal, libraries: list[Path], user: Path
) -> None:
    dylib = session.load([user, libraries[0]])
    assert "of_library" not in dylib
    with pytest.raises(tol.FunctionNotFoundError, match=r"tvm_ffi\.load_module") as caught:
        dylib.get_function("of_library")
    assert str(libraries[0]) in str(caught.value)
    assert dylib.lookup("__tvm_ffi_of_library")
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("hidden")
    for load in (refusal.session.load_module, tol.load_module):
        with refusal.of(tol.ObjectFormatError, libraries[0], "tvm_ffi.load_module"):
            load(libraries[0])


def test_the_link_order_tells_dylibs_from_libraries(
    session: tol.Session, libraries: list[Path]
) -> None:
    base = session.create_dylib("base")
    app = session.create_dylib("app", link_order=[base, libraries[0], str(libraries[1])])
    assert app.link_order == [base, str(libraries[0]), str(libraries[1])]


def test_a_name_without_a_slash_is_a_file_in_the_current_folder(
    session: tol.Session,
    libraries: list[Path],
    user: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    libraries[0].rename(tmp_path / "libm.so.6")  # the system has another one of this name
    assert session.load([user, "libm.so.6"])["use"]() == total(1)
    (tmp_path / "libm.so.6").rename(tmp_path / "plugin.o")  # content tells, not the name
    assert session.load(user, link_order=["plugin.o"])["use"]() == total(1)
    with pytest.raises(FileNotFoundError) as caught:
        session.create_dylib("x", link_order=["libc.so.6"])
    assert caught.value.filename == "libc.so.6"
    with pytest.raises(FileNotFoundError):
        session.load([user, "libc.so.6"])


def test_symbols_without_an_address_of_their_own(session: tol.Session, compile: Compiler) -> None:
    library = compile.link(
        compile("int nothing;\n"), flags=("-Wl,--defsym=zero=0", "-Wl,--defsym=far=0x123456789abc")
    )
    caller = compile(
        '#include "safe_call.h"\nextern char zero, far;\n'
        "EXPORT(zero) { RETURN(&zero); }\nEXPORT(far) { RETURN(&far); }\n"
    )
    flags = ("-L" + str(library.parent), f"-l:{library.name}", f"-Wl,-rpath,{library.parent}")
    dlopened = tvm_ffi.load_module(compile.link(caller, flags=flags), keep_module_alive=False)
    dylib = session.load([caller, library])
    assert dylib["zero"]() == dlopened.zero() == 0
    assert dylib["far"]() == dlopened.far() == 0x123456789ABC
    assert dylib.lookup("zero") == 0


@only_on(X86_64, "others reach 4 GiB with the same code")
def test_data_out_of_reach_of_code_that_is_not_position_independent(
    refusal: Refusal, compile: Compiler, libraries: list[Path]
) -> None:
    near = compile(USER, "-O2", "-fno-pic", "-mcmodel=small", name="nopic")
    with refusal.of(tol.LinkError, near, "-fPIC"):
        refusal.dylib.load([near, libraries[0]])
    assert not is_mapped(libraries[0])


def test_a_library_that_cannot_be_opened(
    refusal: Refusal, compile: Compiler, user: Path, tmp_path: Path
) -> None:
    lacking = compile.link(compile("int gone(void);\nint use_it(void) { return gone(); }\n"))
    scripts = {
        "script.so": "/* GNU ld script */\nGROUP ( /lib/libm.so.6 AS_NEEDED ( /mvec.so ) )\n",
        "input.so": "INPUT(libreal.so.1)\n",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    pie, main = tmp_path / "pie", compile("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-pie", str(main), "-o", str(pie)], check=True)
    foreign = tmp_path / "foreign.so"
    content = bytearray(lacking.read_bytes())
    content[18:20] = OTHER.header()
    foreign.write_bytes(content)
    cases: list[tuple[Path, type[BaseException], tuple[str, ...]]] = [
        (lacking, tol.LinkError, ("undefined symbol: gone",)),
        (pie, tol.LinkError, ("position-independent executable",)),
        (tmp_path / "script.so", tol.ObjectFormatError, ("linker script",)),
        (tmp_path / "input.so", tol.ObjectFormatError, ("linker script",)),
        (foreign, tol.ObjectFormatError, (f"shared library for {OTHER.name}",)),
        (tmp_path / "absent.so", FileNotFoundError, ()),
        (tmp_path, IsADirectoryError, ()),
    ]
    for path, error, said in cases:
        for attempt in (
            lambda path=path: refusal.dylib.load([user, path]),
            lambda path=path: refusal.session.load(user, link_order=[path]),
            lambda path=path: refusal.session.load_module([path, user]),
        ):
            with refusal.of(error, path, *said):
                attempt()
    with refusal.of(tol.ObjectFormatError, user, "not a shared library"):
        refusal.session.create_dylib("x", link_order=[user])
    with refusal.of(ValueError, "null"):
        refusal.session.create_dylib("x", link_order=["a\0b"])


TRUNCATE = """
import pathlib, struct, sys
import tvm_ffi_object_loader as tol

whole, cut = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2])
table, count = struct.unpack_from("<Q", whole, 32)[0], struct.unpack_from("<H", whole, 56)[0]
segments = [struct.unpack_from("<6Q", whole, table + 56 * i) for i in range(count)]
needed = max(offset + size for _, offset, _, _, size, _ in segments)
session = tol.Session()
lengths = {*range(64), *range(64, needed, 53), *range(needed - 20, needed)}
for length in lengths:
    cut.write_bytes(whole[:length])
    try:
        session.load(cut)
    except tol.ObjectFormatError as error:
        assert str(cut) in str(error)
    else:
        raise AssertionError(f"{length} of {len(whole)} bytes were loaded")
    cut.unlink()
cut.write_bytes(whole[:needed])
session.load(cut)
print(len(lengths) > 200)
"""


def test_a_truncated_library_is_refused(
    libraries: list[Path], run_script: RunScript, tmp_path: Path
) -> None:
    assert run_script(TRUNCATE, libraries[0], tmp_path / "cut.so") == "True\n"


def test_a_refused_load_closes_the_library_again(
    refusal: Refusal, compile: Compiler, libraries: list[Path], user: Path, trace: Trace
) -> None:
    broken = compile("int gone(void);\nint use_it(void) { return gone(); }\n", name="broken")
    throws = compile.cxx(
        "#include <stdexcept>\nstatic int x = [] { throw std::runtime_error("
        '"no"); return 1; }();\nint* keep() { return &x; }\n'
    )
    cases = [(broken, tol.UndefinedSymbolError, [1, -1]), (throws, tol.LinkError, [1, -1])]
    for bad, error, events in cases:
        with refusal.of(error, bad):
            refusal.dylib.load([user, bad, libraries[0]])
        assert trace.take() == events
        assert not is_mapped(libraries[0])
        with refusal.of(tol.UndefinedSymbolError):
            refusal.dylib.load(user)
    # What can be seen without opening the library is seen before.
    with refusal.of(tol.ObjectFormatError):
        refusal.dylib.load([libraries[0], b"no object"])
    assert trace.take() == []
    with refusal.of(tol.ObjectLoaderError, "good"):
        refusal.session.create_dylib("good", link_order=[libraries[0]])
    assert not is_mapped(libraries[0])


def test_a_library_stays_as_long_as_code_that_uses_it(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace
) -> None:
    base = session.load(libraries[0], name="base")
    app = session.load(user, link_order=[base])
    base.close()
    assert app["use"]() == total(1)
    function = app["use"]
    del app, base
    gc.collect()
    assert function() == total(1)
    assert is_mapped(libraries[0])
    session.close()
    assert trace.take() == [1, -1]
    assert not is_mapped(libraries[0])


def test_a_library_of_two_names_is_one(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace, tmp_path: Path
) -> None:
    other = tmp_path / "other.so"
    other.symlink_to(libraries[0])
    for _ in range(2):
        first = session.load(user, link_order=[libraries[0]])
        second = session.load([user, other])
        first["set"](70)
        assert second["use"]() == total(1) + 69
        first.close()
        assert second["use"]() == total(1) + 69
        assert is_mapped(libraries[0])
        second.close()
        assert trace.take() == [1, -1]
        assert not is_mapped(libraries[0])


def test_the_objects_end_before_their_library(
    session: tol.Session, compile: Compiler, libraries: list[Path], trace: Trace
) -> None:
    source = """
    #include "trace.h"
    int64_t number(void);
    __attribute__((constructor)) static void init(void) { trace(10 + number()); }
    __attribute__((destructor)) static void fini(void) { trace(-10 - number()); }
    """
    session.load([compile(source), libraries[0]]).close()
    assert trace.take() == [1, 11, -11, -1]


LOADS_ITSELF = """
import sys
import threading
import tvm_ffi, tvm_ffi_object_loader as tol

session = tol.Session()
dylib = session.load(sys.argv[2], name="dylib")
seen = []


@tvm_ffi.register_global_func("load_more")
def load_more():
    seen.append((dylib["add"](1, 2), list(session.dylibs), dylib.functions, session.stats()))
    dylib.load(sys.argv[3])
    with session.load(sys.argv[2]) as other:
        assert other["add"](3, 4) == 7


dylib.load(sys.argv[1])
assert seen[0][:3] == (3, ["dylib"], ["add"]), seen
print(dylib["more"]())
"""


def test_a_library_is_opened_without_any_lock(
    compile: Compiler, add_object: Path, run_script: RunScript
) -> None:
    """Its constructor takes the GIL, loads into the same dylib and another one, and asks around."""
    source = """
    #include <tvm/ffi/function.h>
    __attribute__((constructor)) static void init() {
      tvm::ffi::Function::GetGlobalRequired("load_more")();
    }
    """
    more = compile('#include "safe_call.h"\nEXPORT(more) { RETURN(7); }\n')
    folder = Path(libinfo.find_libtvm_ffi()).parent
    library = compile.link(compile.cxx(source), flags=(f"-L{folder}", "-ltvm_ffi"))
    assert run_script(LOADS_ITSELF, library, add_object, more, timeout=60) == "7\n"


def test_a_library_whose_constructor_throws(compile: Compiler, tmp_path: Path) -> None:
    """It ends the process, as it does where the library is dlopened."""
    library = compile.link(compile.cxx("static int x = [] { throw 1; return 2; }();\nint y = x;\n"))
    load = "import tvm_ffi_object_loader as tol\ntol.Session().load(sys.argv[1])\n"
    codes = []
    for opening in (load, "import ctypes\nctypes.CDLL(sys.argv[1])\n"):
        result = subprocess.run(
            [sys.executable, "-c", f"import sys\n{opening}", str(library)], capture_output=True
        )
        codes.append(result.returncode)
    assert codes[0] == codes[1] != 0


def test_libraries_in_many_threads(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace
) -> None:
    def work(number: int) -> None:
        for _ in range(30):
            dylib = session.load([user, libraries[number % 2]], link_order=libraries[::-1])
            assert dylib["use"]() == total(number % 2 + 1)

    run_in_threads(work)
    gc.collect()
    assert not any(map(is_mapped, libraries))


KEEPS_FOR_THREADS = """
#include <pthread.h>
#include <stdint.h>
static pthread_key_t key;
static void destroy(void* value) { *(int*)value = 4711; }
__attribute__((constructor)) static void init(void) { pthread_key_create(&key, destroy); }
void keep(void* value) { pthread_setspecific(key, value); }
"""
USES_KEPT = """
#include "safe_call.h"
void keep(void*);
EXPORT(run) { keep((void*)(intptr_t)INT(0)); RETURN(0); }
"""


@pytest.mark.parametrize("indirect", [False, True], ids=["the library", "one that it needs"])
@pytest.mark.parametrize("how", ["with the objects", "in the link order"])
def test_a_library_that_keeps_something_for_threads_stays(
    session: tol.Session, compile: Compiler, how: str, indirect: bool
) -> None:
    unique = f"/* {how} {indirect} {os.getpid()} */"
    given = keeping = compile.link(compile(KEEPS_FOR_THREADS + unique), flags=("-lpthread",))
    if indirect:
        caller = compile("void keep(void*);\nvoid call(void* v) { keep(v); }\n" + unique)
        given = compile.link(caller, flags=(str(keeping), f"-Wl,-rpath,{keeping.parent}"))
    source = USES_KEPT.replace("keep", "call") if indirect else USES_KEPT
    user = compile(source)
    value = ctypes.c_int(0)
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        if how == "with the objects":
            dylib = session.load([user, given])
        else:
            dylib = session.load(user, link_order=[given])
        dylib["run"](ctypes.addressof(value))
        dylib.close()
        del dylib
        started.set()
        done.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    gc.collect()
    assert is_mapped(keeping)
    done.set()
    thread.join()
    # Python lets go of a thread before the C library is done with it.
    for _ in range(60_000):
        if value.value:
            break
        time.sleep(0.001)
    assert value.value == 4711
    if indirect:
        assert not is_mapped(given) or given == keeping


def test_a_library_that_defines_nothing_and_uses_threads_stays(
    session: tol.Session, compile: Compiler
) -> None:
    source = """
    #include <pthread.h>
    static pthread_key_t key;
    static void destroy(void* value) {}
    __attribute__((constructor)) static void init(void) { pthread_key_create(&key, destroy); }
    """
    library = compile.link(compile(source + f"/* {os.getpid()} */"), flags=("-lpthread",))
    session.load([compile(USER.split("int64_t own")[0] + "int x;"), library]).close()
    assert is_mapped(library)


ANOTHER_AT_THE_SAME_PLACE = """
import ctypes, _ctypes, sys
import tvm_ffi_object_loader as tol

user, *libraries = sys.argv[1:]
session = tol.Session()
outcomes = [session.load(user)["get"]()]
first = ctypes.CDLL(libraries[0])
outcomes.append(session.load(user)["get"]())
_ctypes.dlclose(first._handle)
second = ctypes.CDLL(libraries[1], mode=ctypes.RTLD_GLOBAL)
outcomes.append(session.load(user)["get"]())
print(*outcomes, tol.Session().load(user)["get"]())
"""


def test_a_library_where_another_one_was_is_not_overlooked(
    compile: Compiler, run_script: RunScript
) -> None:
    """What a header defines is the global scope's, where a library in it has it."""
    user = compile.cxx(
        '#include "safe_call.h"\ninline int shared_value = 5;\n'
        "EXPORT(get) { RETURN(shared_value); }"
    )
    other = compile.link(compile("int other_value = 1;\n"))
    defines = compile.link(compile("int shared_value = 77;\n"))
    assert run_script(ANOTHER_AT_THE_SAME_PLACE, user, other, defines) == "5 5 77 77\n"


def test_names_with_null_characters_are_not_cut(
    session: tol.Session, compile: Compiler, libraries: list[Path]
) -> None:
    dylib = session.create_dylib(link_order=libraries[:1])
    assert dylib.lookup("number")
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("number\0x")
