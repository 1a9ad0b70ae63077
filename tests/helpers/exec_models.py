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

from compilation import TOOLCHAINS, Compiler
from processors import PROCESSOR

MODELS: dict[str, tuple[str, ...]] = {
    "initial exec": ("-fPIC", "-ftls-model=initial-exec"),
    "PIE": ("-fPIE",),
    "PIE, large": ("-fPIE", "-mcmodel=large"),
    "PIE, no PLT": ("-fPIE", "-fno-plt"),
    "fixed": ("-fno-pic",),
    "general dynamic": ("-fPIC",),
    "descriptors": ("-fPIC", PROCESSOR.descriptors),
}
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
