# SPDX-License-Identifier: Apache-2.0
"""Run programs, each in a child of this process: ``serve.py MODULE``, which run.py starts.

MODULE has the ``load_module`` that loads them: ``tvm_ffi``, given a shared library, or
``tvm_ffi_object_loader``, given objects. It is imported once; what a program does to its process
ends with it. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TypedDict

MAX_OUTPUT = 64 << 20  # bytes a file


class Request(TypedDict):
    """A program to run."""

    files: list[str]
    folder: str  # where it runs, and where its stdout is left, as a file of this name
    timeout: float  # seconds


def run(loader: ModuleType, request: Request, report: int) -> NoReturn:
    """Load a program and end as it ends; an error goes to the descriptor `report`."""
    os.setsid()
    os.chdir(request["folder"])
    null = os.open(os.devnull, os.O_RDWR)
    stdout = os.open("stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, target in enumerate((null, stdout, null)):
        os.dup2(target, number)
    # Python ignores these, and what a program inherits is compared as well.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(ignored, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_OUTPUT, MAX_OUTPUT))
    try:
        files = request["files"]
        module = loader.load_module(files[0] if len(files) == 1 else files)
        status = module.run_program()
    except Exception as error:
        os.write(report, f"{type(error).__name__}: {error}"[:4000].encode())
        os._exit(0)
    # As after main: handlers run, and stdio is flushed.
    ctypes.PyDLL(None).exit(status)
    raise AssertionError("exit returned")


def wait(pid: int, timeout: float) -> int | None:
    """Return the status that a child ends with, or nothing if it had to be killed."""
    deadline = time.monotonic() + timeout
    pause = 0.0005
    status: int | None = None
    while status is None and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
        ended, raw = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = raw
    for kill in (os.killpg, os.kill) if status is None else (os.killpg,):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)  # what it has started, too
    if status is None:
        os.waitpid(pid, 0)
    return status


def answer(loader: ModuleType, request: Request) -> str:
    """Run a program; tell how it ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run(loader, request, writing)
        finally:
            os._exit(125)
    os.close(writing)
    status = wait(pid, request["timeout"])
    os.set_blocking(reading, False)  # a child of the program may have it, too
    error = ""
    with contextlib.suppress(BlockingIOError):
        error = os.read(reading, 4096).decode(errors="replace")
    os.close(reading)
    if error:
        return f"refused: {error}"
    if status is None:
        return "hangs"
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def main(name: str) -> None:
    """Answer until standard input ends."""
    loader = importlib.import_module(name)
    for line in sys.stdin:
        request: Request = json.loads(line)
        Path(request["folder"]).mkdir(exist_ok=True)
        print(json.dumps(answer(loader, request)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
