# SPDX-License-Identifier: Apache-2.0
"""Load the programs of foreign test suites, and compare with what the linker makes of them.

``run.py FOLDER...`` takes every ``*.c`` in the folders that is a program by itself: of c-testsuite
(``tests/single-exec``: a ``NNN.c`` with a ``NNN.c.expected``), of GCC's torture tests
(``gcc.c-torture/execute``: ``main`` returns 0, exits or aborts), or of any suite like them. Each is
compiled with each ``--flags``, and then runs twice, each time in a process of its own:

1. linked with ``cc -shared`` as a library that is dlopened, where its own definitions are preferred
   to those of the process. Where the linker refuses that, it is compiled anew with -fPIC;
2. loaded by this package, from the very objects.

Its status, or the signal that ended it, and its standard output must be the same. Its ``main`` is
renamed in the object file, with objcopy, so that the compiler takes it for what it is; objcopy from
LLVM, or ``--keep-main``, is for objects that GNU's does not know. Options in comments
(``{ dg-options "-fwrapv" }``) are heeded.

The suites are not here. Examples::

    python tests/foreign/run.py c-testsuite/tests/single-exec --flags "-O0 -fPIC" --flags -fno-pic
    python tests/foreign/run.py gcc/testsuite/gcc.c-torture/execute --cc clang --jobs 8 \
        --flags "-std=gnu89 -O2 -fPIC" --expected differences.txt

``--expected`` names a file of known differences: a line each, the file name of a program (a pattern
like ``pr1*.c``) and the reason; ``#`` begins a comment. A summary is printed; the exit status is 1
if anything else differs. What is counted besides: programs that are not compiled or linked, and
those that two runs as a library differ in. Programs that fail both ways are equal; how many of
them fail tells whether the flags suit the suite.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from compilation import CLANG, GCC, Compiler, Toolchain
from serve import Request

HERE = Path(__file__).parent
ORACLE = "tvm_ffi"
OPTIONS = re.compile(r'\{\s*dg-(?:additional-)?options\s+\{?\s*"([^"]*)"\s*\}')
SECONDS_TO_COMPILE = 120

EQUAL, DIFFERENT, KNOWN = "equal", "different", "known to differ"
NOT_MADE, UNSTEADY = "not compiled or linked", "never twice the same"


class Ending(NamedTuple):
    """How a program ended, and what it printed."""

    how: str
    output: bytes


class Result(NamedTuple):
    """What came of a program."""

    verdict: str
    detail: str = ""
    fails: bool = False  # in the shared library


class NotMadeError(Exception):
    """The compiler or the linker refuses."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    toolchain: Toolchain
    loader: str
    objcopy: str
    keep_main: bool
    timeout: float


class Server:
    """A process that runs programs in children of its own."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "serve.py"), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, files: list[Path], folder: Path, timeout: float) -> Ending:
        """Run a program in a folder of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = Request(files=[str(path) for path in files], folder=str(folder), timeout=timeout)
        print(json.dumps(request), file=self._process.stdin, flush=True)
        how: str = json.loads(self._process.stdout.readline())
        return Ending(how, (folder / "stdout").read_bytes())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def call(*command: str | Path) -> None:
    """Run a compiler or a linker."""
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS_TO_COMPILE,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        telling = [line for line in lines if re.search("error:|undefined reference", line)]
        raise NotMadeError(next(iter(telling + lines), "no reason is given")) from None


def difference(oracle: Ending, loader: Ending) -> str:
    """Say how two runs differ, in a line; nothing if they don't."""
    if oracle.how != loader.how:
        return f"{oracle.how} in a library, but {loader.how}"
    pairs = itertools.zip_longest(oracle.output.splitlines(), loader.output.splitlines())
    for number, (expected, line) in enumerate(pairs, 1):
        if expected != line:
            return f"line {number} of stdout: {expected!r} in a library, but {line!r}"
    return "" if oracle.output == loader.output else "the last line of stdout ends otherwise"


def fails(program: Path, ending: Ending) -> bool:
    """Whether a program did not do what its suite says."""
    expected = program.with_name(program.name + ".expected")
    return ending.how != "exit 0" or (
        expected.is_file() and expected.read_bytes().strip() != ending.output.strip()
    )


class Suite:
    """Makes programs and runs them both ways, in several threads."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._numbers = itertools.count()
        self._of_thread = threading.local()
        self._servers: list[Server] = []
        flags = ("-DPROGRAM_MAIN=main",) if options.keep_main else ()
        text = (HERE / "wrapper.c").read_text()
        self._wrapper = Compiler(folder)(text, "-O1", "-fPIC", "-w", *flags, name="wrapper")

    def _server(self, module: str) -> Server:
        if not hasattr(self._of_thread, module):
            server = Server(module)
            self._servers.append(server)
            setattr(self._of_thread, module, server)
        found: Server = getattr(self._of_thread, module)
        return found

    def _compile(self, program: Path, flags: list[str], to: Path) -> Path:
        own = OPTIONS.findall(program.read_text(errors="replace"))
        flags = [*flags, *itertools.chain(*map(shlex.split, own))]
        call(self._options.toolchain.cc, "-w", *flags, "-c", program, "-o", to)
        if not self._options.keep_main:
            call(self._options.objcopy, "--redefine-sym", "main=program_main", to)
        return to

    def _link(self, program: Path, to: Path) -> Path:
        flags = ("-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs")
        call(self._options.toolchain.cc, *flags, program, self._wrapper, "-lm", "-o", to)
        return to

    def _run(self, program: Path, flags: list[str], folder: Path) -> Result:
        loaded = self._compile(program, flags, folder / "program.o")
        library = folder / "library.so"
        try:
            self._link(loaded, library)
        except NotMadeError:
            linked = self._compile(program, [*flags, "-fPIC"], folder / "linked.o")
            self._link(linked, library)
        timeout = self._options.timeout
        first = self._server(ORACLE).run([library], folder / "first", timeout)
        if first.how.startswith("refused"):
            raise NotMadeError(first.how)
        server = self._server(self._options.loader)
        ours = server.run([loaded, self._wrapper], folder / "loader", timeout)
        failed = fails(program, first)
        detail = difference(first, ours)
        if not detail:
            return Result(EQUAL, first.how, failed)
        # In a new process: the children of one all have the same addresses.
        another = Server(ORACLE)
        try:
            second = another.run([library], folder / "second", timeout)
        finally:
            another.close()
        if unsteady := difference(first, second):
            return Result(UNSTEADY, unsteady, failed)
        return Result(DIFFERENT, detail, failed)

    def run(self, program: Path, flags: str) -> Result:
        """Run a program both ways."""
        folder = self._folder / f"program-{next(self._numbers)}"
        folder.mkdir()
        try:
            return self._run(program, shlex.split(flags), folder)
        except NotMadeError as error:
            return Result(NOT_MADE, str(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End the processes that run programs."""
        for server in self._servers:
            server.close()


def read_expected(path: Path | None) -> dict[str, str]:
    """Return the reason of each known difference, by the pattern of its programs."""
    lines = path.read_text().splitlines() if path else []
    words = (line.split(maxsplit=1) for line in lines if line.strip() and line[0] != "#")
    return {word[0]: word[1] if len(word) > 1 else "" for word in words}


def known(program: Path, expected: dict[str, str]) -> str | None:
    """Return the pattern that a program is expected to differ by."""
    return next((each for each in expected if fnmatch.fnmatch(program.name, each)), None)


def report(results: Iterable[tuple[Path, str, Result]], expected: dict[str, str]) -> bool:
    """Print what came of all programs; return whether none differs that is not known to."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    failing: dict[str, int] = defaultdict(int)
    unused = set(expected)
    details = []
    for program, flags, result in results:
        verdict, detail = result.verdict, result.detail
        pattern = known(program, expected)
        if verdict == DIFFERENT and pattern is not None:
            unused.discard(pattern)
            verdict, detail = KNOWN, f"{detail} ({expected[pattern]})"
        counts[flags][verdict] += 1
        failing[flags] += result.fails
        if verdict != EQUAL:
            details.append((verdict, f"{program.name} {flags}: {detail}"))
    for verdict in (NOT_MADE, UNSTEADY, KNOWN, DIFFERENT):
        for _, text in filter(lambda each: each[0] == verdict, details):
            print(f"{verdict}: {text}")
    for pattern in sorted(unused):
        print(f"no longer differs: {pattern}")
    for flags, of_verdict in counts.items():
        parts = [f"{number} {verdict}" for verdict, number in sorted(of_verdict.items())]
        print(f"{flags}: {', '.join(parts)}; {failing[flags]} fail in a library")
    return not any(of_verdict[DIFFERENT] for of_verdict in counts.values())


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--cc", choices=["gcc", "clang"], default="gcc")
    parser.add_argument(
        "--flags", action="append", help='may be repeated; "-O2 -fPIC" if it is not'
    )
    parser.add_argument("--only", default="*.c", metavar="PATTERN", help="of file names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=20, help="seconds a program may take")
    parser.add_argument("--expected", type=Path, metavar="FILE", help="known differences")
    parser.add_argument("--objcopy", default="objcopy", help="what renames main")
    parser.add_argument("--keep-main", action="store_true", help="don't rename it")
    parser.add_argument(
        "--loader", default="tvm_ffi_object_loader", help="the module whose load_module loads"
    )
    return parser.parse_args()


def main() -> int:
    """Run all programs with all flags."""
    options = arguments()
    toolchain = CLANG if options.cc == "clang" else GCC
    if toolchain is None:
        sys.exit("there is no clang")
    found: Iterator[Path] = itertools.chain(*(each.glob(options.only) for each in options.folders))
    programs = sorted(path.absolute() for path in found)
    if not programs:
        sys.exit("there are no programs")
    cases = list(itertools.product(programs, options.flags or ["-O2 -fPIC"]))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chosen = Options(
            toolchain, options.loader, options.objcopy, options.keep_main, options.timeout
        )
        suite = Suite(chosen, folder)
        stack.callback(suite.close)
        executor = stack.enter_context(ThreadPoolExecutor(options.jobs))
        results = list(executor.map(lambda case: suite.run(*case), cases))
    named = [
        (program, flags, result) for (program, flags), result in zip(cases, results, strict=True)
    ]
    return 0 if report(named, read_expected(options.expected)) else 1


if __name__ == "__main__":
    sys.exit(main())
