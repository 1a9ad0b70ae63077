# SPDX-License-Identifier: Apache-2.0
"""Thread-local variables of installed libraries, used by code in the models of executables."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compilation import Compiler, Toolchain
from conftest import RunScript
from exec_models import CAUSE, MODELS, Run, every_toolchain, right, says_the_cause
from exec_models import room as room
from exec_models import run as run

pytestmark = pytest.mark.matrix

EXEC = [name for name in MODELS if name not in ("general dynamic", "descriptors")]
Linked = Callable[..., Path]


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
