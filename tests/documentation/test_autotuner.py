# SPDX-License-Identifier: Apache-2.0
"""docs/autotuner.md: trials in worker processes, which end in the place of the search."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import SLOWER, RunScript
from pages import Page, run_command
from releases import needs
from scripts import Script

pytest.importorskip("numpy")

PAGE = Page("docs/autotuner.md")
pytestmark = PAGE.needed

# What a candidate does with its arrays: x is an input of 4 doubles, y is to be 2 * x.
KERNEL = """
#include <dlpack/dlpack.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include "safe_call.h"
static double* array(const TVMFFIAny* any) {{
  return any->type_index == kTVMFFITensor
             ? ((DLTensor*)((char*)any->v_obj + sizeof(TVMFFIObject)))->data
             : ((DLTensor*)any->v_ptr)->data;
}}
static void twice(double* x, double* y) {{ for (int i = 0; i < 4; ++i) y[i] = 2 * x[i]; }}
EXPORT(kernel) {{
  double *x = array(&args[0]), *y = array(&args[1]);
  {}
  RETURN(0);
}}
"""
BODIES = {
    "good": "twice(x, y);",
    "crashes": "*(volatile int*)8 = 1;",
    "aborts": "abort();",
    "exits": "exit(3);",
    "hangs": "twice(x, y); for (;;) pause();",
    "is wrong": "y[0] = x[0];",
    "does nothing": "",
    "raises": 'TVMFFIErrorSetRaisedFromCStr("ValueError", "no tile"); return -1;',
    "misses a symbol": "extern void missing(void); missing();",
}
OUTCOMES = {
    "crashes": "SIGSEGV",
    "aborts": "SIGABRT",
    "exits": "exit(3)",
    "hangs": "SIGALRM",
    "is wrong": "wrong result",
    "does nothing": "wrong result",
    "raises": "ValueError: no tile",
    "misses a symbol": "UndefinedSymbolError: ",
    "is no object": "ObjectFormatError: ",
    "is not there": "FileNotFoundError: ",
}
# Searches that say on which shared memory they run, in the place of the ones of the page.
PREAMBLE = """
import json, multiprocessing, sys
import numpy
import autotune

class Named(autotune.SharedMemory):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        if options.get("create"):
            print(self.name, flush=True)

x = numpy.arange(4.0)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of the scripts of a test, with the page's beside them."""
    PAGE.write_files(tmp_path)
    return tmp_path


def candidate(compile: Compiler, body: str) -> str:
    return str(compile(KERNEL.format(body), name="kernel"))


@needs("objects of its build_inline")
def test_the_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ninja") is None:
        pytest.skip("ninja is not installed")
    monkeypatch.chdir(folder)
    (command,) = PAGE.blocks("sh")
    (expected,) = PAGE.blocks("text")
    done = run_command(command, XDG_CACHE_HOME=str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [
        sorted(re.sub(r"[\d.]+ µs", "time", line) for line in text.splitlines())
        for text in (done.stdout, expected)
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_each_candidate_has_its_outcome(
    compile: Compiler, folder: Path, run_script: RunScript
) -> None:
    """Whatever a candidate does, those around it are measured."""
    (folder / "text.o").write_text("no object")
    candidates = {name: candidate(compile, body) for name, body in BODIES.items()}
    candidates |= {"is no object": str(folder / "text.o"), "is not there": str(folder / "no.o")}
    ordered = {}
    for name, path in candidates.items():
        ordered[name] = path
        ordered[f"after {name}"] = candidates["good"]
    script = """
if __name__ == "__main__":
    trials = autotune.search(json.loads(sys.argv[1]), "kernel", x, 2 * x, limit=int(sys.argv[2]))
    print(json.dumps(trials))
"""
    output = run_script(PREAMBLE + script, json.dumps(ordered), 3 * SLOWER)
    trials = json.loads(output)
    assert list(trials) == list(ordered)
    for name, (seconds, failure) in trials.items():
        expected = OUTCOMES.get(name, "")
        assert failure.startswith(expected), name
        assert bool(failure) == bool(expected), (name, failure)
        assert (0 < seconds < 3 * SLOWER) == (not expected), (name, seconds)


def test_kernels_have_the_arrays_themselves(
    compile: Compiler, folder: Path, run_script: RunScript
) -> None:
    """What a kernel writes into its input is in the search's array, which nobody has copied."""
    script = """
if __name__ == "__main__":
    with autotune.SharedArray(x) as shared:
        with autotune.Worker("kernel", [shared, shared], 60) as worker:
            trial = worker.try_out(sys.argv[1])
        assert trial.failure == "wrong result", trial
        print(shared.view().tolist())
"""
    output = run_script(PREAMBLE + script, candidate(compile, "x[2] = 7;"))
    assert output == "[0.0, 1.0, 7.0, 3.0]\n"


def test_a_worker_that_died_meanwhile_is_replaced(
    compile: Compiler, folder: Path, run_script: RunScript
) -> None:
    script = """
if __name__ == "__main__":
    with autotune.SharedArray(x) as x, autotune.SharedArray(2 * x.view()) as expected:
        with autotune.Worker("kernel", [x, expected], 60) as worker:
            worker.process.kill()
            worker.process.join()
            print([worker.try_out(sys.argv[1]).failure for _ in range(2)])
"""
    output = run_script(PREAMBLE + script, candidate(compile, BODIES["good"]))
    assert output == "['SIGKILL', '']\n"


class Search(Script):
    """A search whose workers both have a kernel that hangs, and says so, before a good one."""

    def __init__(self, compile: Compiler, folder: Path) -> None:
        fifo = folder / "hangs"
        os.mkfifo(fifo)
        hang = f'int file = open("{fifo}", O_WRONLY); write(file, "!", 1); for (;;) pause();'
        hangs, good = candidate(compile, hang), candidate(compile, BODIES["good"])
        candidates = {"hangs": hangs, "too": hangs, "good": good}
        script = """
if __name__ == "__main__":
    autotune.SharedMemory = Named
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        autotune.search(json.loads(sys.argv[1]), "kernel", x, 2 * x, limit=3)
        print("searched")
    except KeyboardInterrupt:
        print("interrupted")
    print(multiprocessing.active_children())
"""
        super().__init__(PREAMBLE + script, folder, json.dumps(candidates))
        with fifo.open("rb") as file:
            assert file.read(2) == b"!!"
        self.memories = [Path("/dev/shm", self.line()) for _ in range(2)]
        assert all(memory.exists() for memory in self.memories)
        assert len(self.others()) >= 4  # two workers, their server, multiprocessing's tracker

    def output(self) -> tuple[str, str]:
        printed = super().output()
        assert not any(memory.exists() for memory in self.memories)
        return printed


@pytest.mark.slow
def test_nothing_is_left_of_a_search(compile: Compiler, folder: Path) -> None:
    search = Search(compile, folder)
    assert search.output() == ("searched\n[]\n", "")
    assert search.process.returncode == 0


@pytest.mark.slow
def test_nothing_is_left_of_an_interrupted_search(compile: Compiler, folder: Path) -> None:
    search = Search(compile, folder)
    os.killpg(search.process.pid, signal.SIGINT)
    assert search.output() == ("interrupted\n[]\n", "")


@pytest.mark.slow
def test_nothing_is_left_of_a_search_that_is_killed(compile: Compiler, folder: Path) -> None:
    search = Search(compile, folder)
    search.process.kill()
    # The tracker says what it has removed.
    assert "leaked shared_memory" in search.output()[1]
