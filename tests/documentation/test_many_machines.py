# SPDX-License-Identifier: Apache-2.0
"""docs/many-machines.md: kernels in the workers of a Dask cluster on this machine."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from compilation import Compiler
from packages import requires
from pages import Page, run_command
from releases import needs
from scripts import Script

PAGE = Page("docs/many-machines.md")
pytestmark = [
    PAGE.needed,
    requires("distributed", "distributed (Dask)"),
    requires("dask.array", "dask[array]"),
    pytest.mark.skipif(shutil.which("ninja") is None, reason="ninja is not installed"),
    needs("objects of its build_inline"),
]

# What is run inside of a cluster has this around it.
PREAMBLE = """
import os, signal, sys
from pathlib import Path
import dask, dask.array, numpy
from distributed import Client, KilledWorker, LocalCluster
import tvm_ffi_object_loader as tol
from silu import SOURCE, apply

{definitions}

if __name__ == "__main__":
    workers = LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with tol.Session(picklable=True) as session, workers, Client(workers) as client:
        x = dask.array.linspace(-8, 8, 1 << 12, chunks=1 << 8)
        expected = (x / (1 + numpy.exp(-x))).compute()
        print("running", flush=True)
{body}
    print("ended")
"""
KERNEL = """
silu = tol.build_object("silu", cpp_sources=SOURCE, functions="silu")
silu = session.load(silu)["silu"]
"""
# It notes in a file who has linked it.
NOTING = """
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "safe_call.h"
static volatile const long number = 0x1122334455667788;
__attribute__((constructor)) static void note(void) {{
  char line[64];
  int length = snprintf(line, sizeof line, "%ld %d\\n", number, getpid());
  int file = open("{}", O_WRONLY | O_APPEND | O_CREAT, 0666);
  if (write(file, line, length) == length) close(file);
}}
EXPORT(run) {{ RETURN(number); }}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the page's scripts, and of all that they write."""
    PAGE.write_files(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(tmp_path / "dask"))
    return tmp_path


def run(folder: Path, body: str, definitions: str = "", *arguments: object) -> str:
    """Run it in a cluster, of which nothing is left; return what was printed."""
    script = Script(
        PREAMBLE.format(definitions=definitions, body=textwrap.indent(body, " " * 8)),
        folder,
        *map(str, arguments),
    )
    first = script.line()
    script.others()
    printed, errors = script.output()
    assert first == "running", errors
    assert printed.endswith("ended\n"), errors
    assert not list((folder / "dask").rglob("worker-*"))
    return printed.removesuffix("ended\n")


def test_the_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (command,) = PAGE.blocks("sh")
    (expected,) = PAGE.blocks("text")
    done = run_command(command)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_chunks_that_dlpack_cannot_pass(folder: Path) -> None:
    """They are read-only, lie apart in memory, or are of another type."""
    body = """
for array in (x.map_blocks(frozen), x.map_blocks(apart), dask.array.ones(64), x.astype("f4")):
    y = array.map_blocks(apply, kernel=silu, dtype="float64")
    print(dask.array.allclose(y, array / (1 + numpy.exp(-array))).compute(), end=" ")
print()
"""
    definitions = """
def frozen(x):
    x.flags.writeable = False
    return x

def apart(x):
    return numpy.repeat(x, 2)[::2]
"""
    assert run(folder, KERNEL + body, definitions) == "True True True True \n"


def test_a_worker_that_is_killed(folder: Path) -> None:
    """Its chunks are computed again, by another that gets the kernel."""
    body = """
before = set(client.run(os.getpid).values())
y = x.map_blocks(apply_or_die, kernel=silu, marker=sys.argv[1], dtype=x.dtype)
print(numpy.allclose(y.compute(), expected))
client.wait_for_workers(2, timeout=120)
print(len(before & set(client.run(os.getpid).values())))
"""
    definitions = """
def apply_or_die(x, kernel, marker):
    y = apply(x, kernel)
    if x.size and x[0] > 0:
        try:
            Path(marker).touch(exist_ok=False)
        except FileExistsError:
            return y
        os.kill(os.getpid(), signal.SIGKILL)
    return y
"""
    assert run(folder, KERNEL + body, definitions, folder / "died") == "True\n1\n"


def test_a_kernel_that_crashes(folder: Path, compile: Compiler) -> None:
    """Dask says which task it was, and the cluster goes on."""
    source = '#include "safe_call.h"\nEXPORT(crash) { *(volatile int*)8 = 1; RETURN(0); }\n'
    body = """
print(dask.config.get("distributed.scheduler.allowed-failures"))
dask.config.set({"distributed.scheduler.allowed-failures": 1})
crash = session.load(sys.argv[1])["crash"]
try:
    print(client.submit(crash, key="the one that crashes").result())
except KilledWorker as error:
    print(error.task)
print(client.submit(sum, [1, 2]).result())
"""
    printed = run(folder, body, "", compile(source, name="crash"))
    assert printed == "3\nthe one that crashes\n3\n"


def test_many_kernels(folder: Path, compile: Compiler) -> None:
    """Each worker links each of them once, whatever number of tasks calls it."""
    log = folder / "linked"
    content = compile(NOTING.format(log), name="noting").read_bytes()
    paths = []
    for number in range(50):
        paths.append(str(folder / f"{number}.o"))
        mark = (0x1122334455667788).to_bytes(8, "little")
        Path(paths[-1]).write_bytes(content.replace(mark, number.to_bytes(8, "little")))
    (block,) = PAGE.blocks("python", under="Many kernels")
    body = f"""
paths = sys.argv[1:]
{block}
print(results == list(range(50)))
everywhere = [client.map(measure, kernels, workers=[worker], pure=False)
              for worker in client.scheduler_info()["workers"] for _ in range(2)]
print(client.gather(everywhere) == [results] * 4)
print(*sorted([os.getpid(), *client.run(os.getpid).values()]))
"""
    printed = run(folder, body, "def measure(kernel):\n    return kernel()\n", *paths).splitlines()
    assert printed[:2] == ["True", "True"]
    expected = [f"{number} {pid}" for number in range(50) for pid in printed[2].split()]
    assert sorted(log.read_text().splitlines()) == sorted(expected)


def test_one_worker_of_a_machine_compiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, compiler = folder / "log", folder / "c++"
    compiler.write_text(f'#!/bin/sh\necho >>{log}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    (block,) = PAGE.blocks("python", under="Each machine compiles for itself")
    body = f"""
{block}
print(all(client.run(lambda: "native" in sys.modules).values()))
print(sum(client.run(lambda: native.kernel() is not None).values()))
print(numpy.allclose(y.compute(), expected))
"""
    printed = run(folder, body)
    assert printed == "True\n2\nTrue\n"
    assert len(log.read_text().splitlines()) == 1
