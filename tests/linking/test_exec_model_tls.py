# SPDX-License-Identifier: Apache-2.0
"""Thread-local variables of libraries in the models of executables, which need static room.

A library's variables have a fixed place in each thread only where that was decided before they were
first used, so what is compared here runs in a process that uses nothing else.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compilation import TOOLCHAINS, Compiler, Toolchain
from conftest import RunScript
from processors import PROCESSOR

pytestmark = pytest.mark.matrix

MODELS: dict[str, tuple[str, ...]] = {
    "initial exec": ("-fPIC", "-ftls-model=initial-exec"),
    "PIE": ("-fPIE",),
    "PIE, large": ("-fPIE", "-mcmodel=large"),
    "PIE, no PLT": ("-fPIE", "-fno-plt"),
    "fixed": ("-fno-pic",),
    "general dynamic": ("-fPIC",),
    "descriptors": ("-fPIC", PROCESSOR.descriptors),
}
EXEC = [name for name in MODELS if name not in ("general dynamic", "descriptors")]
every_toolchain = pytest.mark.parametrize(
    "toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name
)

# Loads in one of two ways and calls `run` for 0, 1 and 2: in a thread that is there before, in this
# one, and in one that comes after. Before it loads, or imports anything, it may use up the room.
LOAD = """
import ctypes
import json
import os
import pathlib
import queue
import shutil
import sys
import threading

import tvm_ffi

request = json.loads(pathlib.Path(sys.argv[1]).read_text())
kept = []


def use_up():
    for size, path in request["libraries_that_use_room"]:
        for number in range(100):
            copy = f"{path}-{number}.so"
            shutil.copy(path, copy)
            try:
                kept.append(ctypes.CDLL(copy))
            except OSError as error:
                assert "static TLS" in str(error), error
                break
            finally:
                os.unlink(copy)
        else:
            raise AssertionError("there is no end of room")


if request["used"] == "before the import":
    use_up()
if request["way"] == "loader":
    import tvm_ffi_object_loader as tol

    session = tol.Session()
if request["used"] == "after the import":
    use_up()
for path in request["in_the_process"]:
    kept.append(ctypes.CDLL(path, ctypes.RTLD_GLOBAL))


def load(objects):
    if request["way"] == "dlopen":
        return tvm_ffi.load_module(objects)
    return session.load(objects, link_order=request["link_order"])


work, done = queue.Queue(), queue.Queue()


def worker():
    while (function := work.get()) is not None:
        done.put([function(n) for n in range(3)])


before = threading.Thread(target=worker, daemon=True)
before.start()
answers = []
for objects in request["loads"]:
    try:
        module = load(objects)
    except Exception as error:
        answers.append({"error": str(error), "type": type(error).__name__})
        continue
    kept.append(module)
    run = module["run"]
    work.put(run)
    results = [done.get(), [run(n) for n in range(3)]]
    after = threading.Thread(target=lambda: results.append([run(n) for n in range(3)]))
    after.start()
    after.join()
    answers.append({"results": results})
work.put(None)
before.join()
print(json.dumps(answers))
"""
Answer = dict[str, object]
Run = Callable[..., list[Answer]]
Linked = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, room: list[tuple[int, str]]) -> Run:
    """Do loads in a process of their own; what linked libraries give is asked for only once."""
    folder = tmp_path_factory.mktemp("loads")
    script = folder / "load.py"
    script.write_text(LOAD)
    numbers = itertools.count()
    known: dict[str, list[Answer]] = {}

    def run(
        way: str,
        *loads: object,
        used: str = "",
        link_order: tuple[Path, ...] = (),
        in_the_process: tuple[Path, ...] = (),
    ) -> list[Answer]:
        request = {
            "way": way,
            "loads": loads,
            "used": used,
            "link_order": link_order,
            "in_the_process": in_the_process,
            "libraries_that_use_room": room if used else [],
        }
        text = json.dumps(request, default=str)
        if text not in known:
            path = folder / f"{next(numbers)}.json"
            path.write_text(text)
            command = [sys.executable, str(script), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
            known[text] = json.loads(done.stdout)
        assert len(known[text]) == len(loads)
        return known[text]

    return run


@pytest.fixture(scope="module")
def linked(compile: Compiler) -> Linked:
    """Compile sources and link each to a library, once."""
    known: dict[object, Path] = {}

    def link(source: str, *flags: str, libraries: tuple[Path, ...] = ()) -> Path:
        key = (source, flags, libraries)
        if key not in known:
            path = compile.cxx(source, "-O2", *(flags or ("-fPIC",)))
            known[key] = compile.link(path, *libraries)
        return known[key]

    return link


SIZES = (1024, 256, 64, 32, 16, 8)


@pytest.fixture(scope="module")
def room(compile: Compiler) -> list[tuple[int, str]]:
    """Return libraries of which each copy that is loaded takes some of the static room."""
    made = []
    for size in SIZES:
        source = f"static _Thread_local char used[{size}];\nint use(void) {{ return ++used[0]; }}\n"
        path = compile(source, "-O1", "-fPIC", "-ftls-model=initial-exec")
        made.append((size, str(compile.link(path))))
    return made


def right(answers: list[Answer]) -> list[object]:
    """Return the results of all loads, none of which was refused."""
    assert not [answer["error"] for answer in answers if "error" in answer]
    return [answer["results"] for answer in answers]


CAUSE = re.compile(r"static TLS|static thread-local|\broom\b")


def says_the_cause(answer: Answer, *objects: Path) -> None:
    """The error begins, after the object's name, with what is missing; names come after."""
    assert answer["type"] == "LinkError"
    said = str(answer["error"])
    assert any(path.name in said for path in objects)
    at = max(said.find(path.name) + len(path.name) for path in objects)
    cause = CAUSE.search(said, at)
    assert cause is not None, said
    assert cause.start() - at < 200, said
    assert len(said) < 3000


# std::call_once passes its function in variables of libstdc++ (std::__once_callable).

ONCE = """
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include "safe_call.h"
static std::once_flag flags[4], inner;
static int64_t calls[4], attempts;
static void count(int64_t n, const std::string& text) { calls[n] += 1 + text.size(); }
EXPORT(run) {
  int64_t n = INT(0);
  std::string text = "a text that is too long for its object to hold";
  for (int i = 0; i < 3; ++i) std::call_once(flags[n], count, n, text);
  std::call_once(flags[3], [&] { std::call_once(inner, [&] { calls[3] += 100; }); });
  std::once_flag local;
  try {
    std::call_once(local, [] { ++attempts; throw std::runtime_error("once"); });
  } catch (const std::runtime_error& error) {
    std::call_once(local, [&] { calls[3] += error.what()[0] == 'o'; });
  }
  std::promise<int64_t> promise;
  promise.set_value(n + 5);
  std::future<int64_t> later = std::async(std::launch::deferred, [n] { return n * 3; });
  RETURN(calls[n] + promise.get_future().get() * 1000 + later.get() * 100000);
}
"""
ONCE_AGAIN = """
#include <mutex>
#include "safe_call.h"
static std::once_flag flag;
static int64_t calls;
EXPORT(run) {
  std::call_once(flag, [](int64_t n) { calls += n; }, 5);
  RETURN(calls * 10 + INT(0));
}
"""


@pytest.fixture(scope="module")
def once(linked: Linked, run: Run) -> list[object]:
    """Return what the linked libraries' calls give."""
    return right(run("dlopen", linked(ONCE), linked(ONCE_AGAIN)))


@pytest.mark.parametrize(
    ("model", "level"),
    [*((model, "-O2") for model in MODELS), ("initial exec", "-O0"), ("PIE", "-O0")],
)
@every_toolchain
def test_call_once(
    compile: Compiler,
    run: Run,
    once: list[object],
    toolchain: Toolchain,
    model: str,
    level: str,
) -> None:
    first, second = (
        compile.cxx(source, level, *MODELS[model], toolchain=toolchain)
        for source in (ONCE, ONCE_AGAIN)
    )
    assert right(run("loader", [first], [second], [first])) == [*once, once[0]]


@pytest.mark.parametrize("first", MODELS)
@pytest.mark.parametrize("second", ["initial exec", "PIE", "general dynamic"])
def test_models_after_each_other(
    compile: Compiler, run: Run, once: list[object], linked: Linked, first: str, second: str
) -> None:
    # The linker takes one of the executables' models.
    theirs = run(
        "dlopen",
        *(
            linked(source, *MODELS["initial exec" if model in EXEC else model])
            for source, model in ((ONCE, first), (ONCE_AGAIN, second))
        ),
    )
    assert right(theirs[:1]) == once[:1]
    paths = [
        compile.cxx(source, "-O2", *MODELS[model])
        for source, model in ((ONCE, first), (ONCE_AGAIN, second))
    ]
    ours = run("loader", *([path] for path in paths))
    assert right(ours[:1]) == once[:1]
    if "error" in ours[1]:
        # What was used dynamically before stays where it is.
        assert "static TLS" in str(theirs[1].get("error")), ours[1]["error"]
        says_the_cause(ours[1], paths[1])
    else:
        assert right(ours) == once


def test_many_loads_take_no_more_room(compile: Compiler, run_script: RunScript) -> None:
    paths = [compile.cxx(ONCE_AGAIN, "-O2", *MODELS[model]) for model in ("initial exec", "PIE")]
    script = """
import sys

import tvm_ffi_object_loader as tol

session = tol.Session()
kept = [session.load(sys.argv[1]) for _ in range(100)]
for number in range(300):
    dylib = session.load(sys.argv[1 + number % 2])
    assert dylib["run"](2) == 52
    dylib.close()
assert all(dylib["run"](1) == 51 for dylib in kept)
print("done")
"""
    assert run_script(script, *paths) == "done\n"


# errno is the C library's, which has its place from the start.

ERRNO = """
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "safe_call.h"
extern __thread int direct __asm__("errno");
EXPORT(run) {
  errno = 0;
  close(-1);
  int64_t result = direct;
  direct = 40 + (int)INT(0);
  result = result * 1000 + errno;
  errno = 0;
  strtol("99999999999999999999999", 0, 10);
  RETURN(result * 1000 + direct);
}
"""


@pytest.mark.parametrize("used", ["", "after the import"])
@every_toolchain
def test_errno(
    compile: Compiler, run: Run, linked: Linked, toolchain: Toolchain, used: str
) -> None:
    paths = [compile(ERRNO, "-O2", *MODELS[model], toolchain=toolchain) for model in EXEC]
    theirs = right(run("dlopen", linked(ERRNO, *MODELS["initial exec"]), used=used))
    assert right(run("loader", *([path] for path in paths), used=used)) == theirs * len(EXEC)


# Variables of a library that is given.

LIBRARY = """
_Thread_local char before[24] = "before";
_Thread_local int counter = 7;
_Thread_local long zero;
_Thread_local _Alignas(64) long aligned[3] = {1, 2, 3};
int* where(void) { return &counter; }
"""
USES_LIBRARY = """
#include "safe_call.h"
extern _Thread_local int counter;
extern _Thread_local long zero;
extern _Thread_local _Alignas(64) long aligned[3];
static _Thread_local int own = 100;
int* where(void);
EXPORT(run) {
  counter += 1;
  zero += INT(0);
  aligned[2] *= 2;
  own += 1;
  RETURN(counter + zero * 100 + aligned[2] * 1000 + own * 100000 +
         (where() == &counter) * 100000000 + ((uintptr_t)aligned % 64) * 1000000000);
}
"""


@pytest.fixture(scope="module")
def libraries(compile: Compiler) -> dict[str, Path]:
    """Return the library, compiled for the models in which it may use its own variables."""
    models = ("general dynamic", "descriptors", "initial exec")
    return {model: compile.link(compile(LIBRARY, "-O2", *MODELS[model])) for model in models}


@pytest.fixture(scope="module")
def of_the_library(compile: Compiler, libraries: dict[str, Path], run: Run) -> list[object]:
    """Return what a linked library that uses it gives."""
    library = libraries["general dynamic"]
    return right(run("dlopen", compile.link(compile(USES_LIBRARY), library)))


@pytest.mark.parametrize("kept", ["general dynamic", "initial exec"])
@pytest.mark.parametrize("how", ["beside", "link order", "in the process"])
@pytest.mark.parametrize("model", ["initial exec", "PIE", "fixed", "general dynamic"])
@every_toolchain
def test_variables_of_a_library(
    compile: Compiler,
    run: Run,
    libraries: dict[str, Path],
    of_the_library: list[object],
    toolchain: Toolchain,
    model: str,
    how: str,
    kept: str,
) -> None:
    library = libraries[kept]
    path = compile(USES_LIBRARY, "-O2", *MODELS[model], toolchain=toolchain)
    if how == "beside":
        answers = run("loader", [path, library])
    elif how == "link order":
        answers = run("loader", [path], link_order=(library,))
    else:
        answers = run("loader", [path], in_the_process=(library,))
    assert right(answers) == of_the_library


@pytest.mark.parametrize("how", ["beside", "link order"])
@pytest.mark.parametrize(
    ("model", "kept"),
    [("PIE, large", "descriptors"), ("PIE, no PLT", "descriptors"), ("descriptors", "descriptors")],
)
def test_variables_of_a_library_in_other_models(
    compile: Compiler,
    run: Run,
    libraries: dict[str, Path],
    of_the_library: list[object],
    model: str,
    kept: str,
    how: str,
) -> None:
    path, library = compile(USES_LIBRARY, "-O2", *MODELS[model]), libraries[kept]
    if how == "beside":
        answers = run("loader", [path, library])
    else:
        answers = run("loader", [path], link_order=(library,))
    assert right(answers) == of_the_library


@pytest.mark.parametrize("model", ["initial exec", "PIE"])
def test_variables_of_several_libraries(compile: Compiler, run: Run, model: str) -> None:
    libraries = [
        compile.link(
            compile(
                f"_Thread_local long of_{n} = {n};\nlong* where_{n}(void) {{ return &of_{n}; }}\n"
            )
        )
        for n in range(1, 4)
    ]
    source = '#include "safe_call.h"\n' + "".join(
        f"extern _Thread_local long of_{n};\nlong* where_{n}(void);\n" for n in range(1, 4)
    )
    source += "EXPORT(run) { RETURN(++of_1 + ++of_2 * 100 + ++of_3 * 10000 + (*where_2())++); }\n"
    path = compile(source, "-O2", *MODELS[model])
    plain = compile.link(compile(source), *libraries)
    expected = right(run("dlopen", plain))
    assert right(run("loader", [path, *libraries])) == expected
    assert right(run("loader", [path], link_order=tuple(libraries))) == expected
    assert right(run("loader", [path, libraries[0]], link_order=tuple(libraries[1:]))) == expected


OBJECTS = """
struct Counted {
  long value;
  Counted() : value(40) {}
  ~Counted() { value = 0; }
};
extern thread_local Counted counted;
"""


@pytest.mark.parametrize("model", ["initial exec", "PIE", "general dynamic"])
@every_toolchain
def test_an_object_of_a_library(
    compile: Compiler, run: Run, toolchain: Toolchain, model: str
) -> None:
    library = compile.link(compile.cxx(OBJECTS + "thread_local Counted counted;\n"))
    source = '#include "safe_call.h"\n' + OBJECTS
    source += "EXPORT(run) { counted.value += INT(0); RETURN(counted.value); }\n"
    path = compile.cxx(source, "-O2", *MODELS[model], toolchain=toolchain)
    plain = compile.link(compile.cxx(source), library)
    expected = right(run("dlopen", plain))
    assert right(run("loader", [path, library])) == expected
    assert right(run("loader", [path], link_order=(library,))) == expected


@pytest.mark.parametrize("model", ["initial exec", "PIE"])
def test_a_library_with_more_than_there_is_room_for(
    compile: Compiler, run: Run, model: str
) -> None:
    library = compile.link(compile(f"_Thread_local char unused[1 << 20];\n{LIBRARY}"))
    path = compile(USES_LIBRARY, "-O2", *MODELS[model])
    plain = compile.link(compile(USES_LIBRARY, "-O2", "-fPIC", "-ftls-model=initial-exec"), library)
    assert "static TLS" in str(run("dlopen", plain)[0]["error"])
    for answer in (
        run("loader", [path, library])[0],
        run("loader", [path], link_order=(library,))[0],
    ):
        says_the_cause(answer, path)
    # In the dynamic model it is a library as any other.
    dynamic = compile(USES_LIBRARY, "-O2", "-fPIC")
    linked = compile.link(dynamic, library)
    assert right(run("loader", [dynamic, library])) == right(run("dlopen", linked))


# Where others have used up the room.


@pytest.mark.parametrize("model", ["initial exec", "PIE", "fixed"])
@pytest.mark.parametrize("used", ["after the import"])
@every_toolchain
def test_no_room_for_what_call_once_needs(
    compile: Compiler,
    run: Run,
    once: list[object],
    linked: Linked,
    toolchain: Toolchain,
    used: str,
    model: str,
) -> None:
    theirs = run("dlopen", linked(ONCE, *MODELS["initial exec"]), used=used)
    assert "static TLS" in str(theirs[0]["error"])
    path = compile.cxx(ONCE, "-O2", *MODELS[model], toolchain=toolchain, name="once")
    beside = compile("int beside;\n", name="beside")
    loads = [[path], [path, beside], [beside, path]]
    for objects, answer in zip(loads, run("loader", *loads, used=used), strict=True):
        if "results" in answer:
            assert answer["results"] == once[0]
        else:
            says_the_cause(answer, *objects)


@pytest.mark.parametrize("used", ["after the import"])
@pytest.mark.parametrize("model", ["initial exec", "PIE", "fixed"])
@pytest.mark.parametrize("how", ["beside", "link order"])
def test_no_room_for_a_librarys_variables(
    compile: Compiler,
    run: Run,
    libraries: dict[str, Path],
    of_the_library: list[object],
    how: str,
    model: str,
    used: str,
) -> None:
    library = libraries["general dynamic"]
    path = compile(USES_LIBRARY, "-O2", *MODELS[model], name="uses")
    if how == "beside":
        (answer,) = run("loader", [path, library], used=used)
    else:
        (answer,) = run("loader", [path], link_order=(library,), used=used)
    if "results" in answer:
        assert [answer["results"]] == of_the_library
    else:
        says_the_cause(answer, path)


def test_no_room_for_one_of_many_objects(compile: Compiler, run: Run, tmp_path: Path) -> None:
    library = compile.link(compile(LIBRARY, "-O2", "-fPIC"))
    path = compile(USES_LIBRARY, "-O2", "-fPIE", name="uses")
    objects = []
    for number in range(60):
        objects.append(tmp_path / f"innocent_{number:02}.o")
        content = compile("int innocent_QX;\n").read_bytes()
        objects[-1].write_bytes(content.replace(b"QX", b"%02d" % number))
    (answer,) = run("loader", [*objects, path, library], used="after the import")
    if "error" in answer:
        said = str(answer["error"])
        assert answer["type"] == "LinkError"
        assert CAUSE.search(said[:600])
        assert len(said) < 3000
        assert len(re.findall(r"innocent_\d\d\.o", said)) <= 12


DYNAMIC = """
#include "safe_call.h"
thread_local int counter = 5;
static thread_local char many[4000];
EXPORT(run) { counter += INT(0); RETURN(counter * 100 + ++many[3999]); }
"""
DYNAMIC_OBJECTS = """
#include <stdexcept>
#include <string>
#include "safe_call.h"
struct Counted {
  std::string text = "a text that is too long for its object to hold";
  int64_t value = 40;
};
thread_local Counted counted;
EXPORT(run) {
  static thread_local Counted inside;
  inside.value += INT(0);
  try {
    if (INT(0) == 1) throw std::runtime_error(counted.text);
  } catch (const std::exception& error) {
    RETURN(std::string(error.what()).size());
  }
  RETURN(++counted.value * 1000 + inside.value);
}
"""
PLAIN = '#include "safe_call.h"\nEXPORT(run) { RETURN(INT(0) + 1); }\n'


@pytest.mark.parametrize("used", ["after the import"])
@pytest.mark.parametrize("model", ["general dynamic", "descriptors"])
@every_toolchain
def test_what_needs_no_room_loads_without(
    compile: Compiler, run: Run, linked: Linked, toolchain: Toolchain, model: str, used: str
) -> None:
    sources = (PLAIN, DYNAMIC, DYNAMIC_OBJECTS, ONCE)
    paths = [compile.cxx(source, "-O2", *MODELS[model], toolchain=toolchain) for source in sources]
    theirs = right(run("dlopen", *map(linked, sources), used=used))
    assert right(run("loader", *([path] for path in paths), used=used)) == theirs


# A library that distributions compile so.

PROTOBUF = """
#include <google/protobuf/arena.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/timestamp.pb.h>
#include "safe_call.h"
using google::protobuf::Timestamp;
EXPORT(run) {
  google::protobuf::Arena arena;
  auto* time = google::protobuf::Arena::CreateMessage<Timestamp>(&arena);
  time->set_seconds(INT(0) + 7);
  time->set_nanos(3);
  std::string text;
  time->SerializeToString(&text);
  Timestamp read;
  read.ParseFromString(text);
  RETURN(read.seconds() * 1000 + text.size() * 100 + time->GetDescriptor()->field_count() * 10 +
         (read.DebugString().size() > 5));
}
"""


def protobuf() -> Path:
    """Return the static library, or skip the test."""
    command = ["g++", "-print-file-name=libprotobuf.a"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not Path(said).is_absolute():
        pytest.skip("libprotobuf.a is not installed")
    return Path(said)


@pytest.mark.parametrize("model", ["general dynamic", "PIE"])
@pytest.mark.parametrize("used", ["", "after the import"])
def test_protobuf(compile: Compiler, run: Run, used: str, model: str) -> None:
    archive = protobuf()
    path = compile.cxx(PROTOBUF, "-O1", *MODELS[model], name="protobuf")
    plain = compile.link(compile.cxx(PROTOBUF, "-O1", "-fPIC"), flags=("-lprotobuf",))
    expected = right(run("dlopen", plain))
    (answer,) = run("loader", [path, archive], used=used)
    if not used or "results" in answer:
        assert right([answer]) == expected
        return
    said = str(answer["error"])
    assert answer["type"] == "LinkError"
    assert CAUSE.search(said[:600])
    assert len(said) < 3000
