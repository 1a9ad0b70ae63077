# SPDX-License-Identifier: Apache-2.0
"""Forks in the middle of the loader's work: by other threads, and by signal handlers.

test_process.py has what parent and child do afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compilation import SOURCES, Compiler
from conftest import RunScript
from folders import HELPERS, ROOT
from refused_calls import why_not

NATIVE = ROOT / "native"


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build tests/sources/forks.cc with the loader's own lock."""
    if not NATIVE.is_dir():
        pytest.skip("the project's sources are not here")
    program = tmp_path_factory.mktemp("forks") / "forks"
    own = [NATIVE / name for name in ("base/fork_lock.cc", "os/futex.cc", "os/fence.cc")]
    sources = [SOURCES / "forks.cc", *own]
    subprocess.run(
        ["c++", "-std=c++17", "-O2", "-pthread", "-I", NATIVE, *sources, "-o", program], check=True
    )
    return program


@pytest.mark.parametrize("has_membarrier", [True, False])
@pytest.mark.parametrize(
    "scenario", ["timer", "held_by_forker", "two_in_the_middle", "threads", "waits"]
)
def test_what_a_fork_must_not_cut_through(forks: Path, scenario: str, has_membarrier: bool) -> None:
    command: list[str | Path] = [forks, scenario]
    if not has_membarrier:
        if reason := why_not():
            pytest.skip(reason)
        refusing = "import os, sys; from refused_calls import *; refuse(Refused('membarrier'))"
        run = f"{refusing}; os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", run, *command]
    done = subprocess.run(
        command,
        check=False,
        timeout=300,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(HELPERS)},
    )
    assert (done.returncode, done.stderr) == (0, "")


# A timer's signal handler, of C, that forks. A process of one thread may do so anywhere: then
# glibc's fork takes no locks.
FORKING = r"""
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int forks = 0, failed = 0;
static void again(void) {
  struct itimerval soon = {{0, 0}, {0, 300}};
  setitimer(ITIMER_REAL, &soon, 0);
}
static void handle(int signal) {
  pid_t child = fork();
  if (child == 0) _exit(7);
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {}
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 7) failed = 1;
  ++forks;
  again();
}
int start(void) {
  struct sigaction action = {0};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  if (sigaction(SIGALRM, &action, 0)) return -1;
  again();
  return 0;
}
int stop(void) {
  struct itimerval never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &never, 0);
  return failed ? -1 : forks;
}
"""


def test_a_signal_handler_forks_while_this_thread_loads(
    compile: Compiler, tmp_path: Path, run_script: RunScript
) -> None:
    library = tmp_path / "forking.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", library],
        input=FORKING,
        text=True,
        check=True,
    )
    path = compile("constructs.cc", "-O2", "-fPIC")
    run_script(
        """
import ctypes, sys
import tvm_ffi_object_loader as tol
forking = ctypes.CDLL(sys.argv[1])
with tol.Session() as session:
    session.load(sys.argv[2], name="before").close()
    assert forking.start() == 0
    for number in range(400):
        session.load(sys.argv[2], name=f"d{number}").close()
    forks = forking.stop()
    assert forks > 20, forks
    session.load(sys.argv[2], name="after")
""",
        library,
        path,
        OPENBLAS_NUM_THREADS="1",  # NumPy's, which tvm_ffi imports
    )
