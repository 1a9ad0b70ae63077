# SPDX-License-Identifier: Apache-2.0
"""The command-line interface: ``tvm-ffi-object-loader``, or ``python -m tvm_ffi_object_loader``.

Its exit status is 0 for success, 1 where something is wrong with a file or failed, and 2 for wrong
arguments. The demo compiles the shipped sources, loads the objects one after the other into one
session, calls a function of each, and prints what each step took.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tvm_ffi
from tvm_ffi import libinfo

from . import Dylib, ObjectLoaderError, Session, __version__, _native

if TYPE_CHECKING:
    from typing import TypeAlias

    from _typeshed import SupportsWrite

    _Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"

_T = TypeVar("_T")

_CALLS: dict[str, tuple[str, tuple[object, ...]]] = {
    "math_ops": ("simple_add", (1, 2)),
    "string_ops": ("string_concat", ("object", "loader")),
}


class _CommandError(Exception):
    """A command that was run failed; the message is what it printed."""


def _find_compiler() -> list[str] | None:
    """Return the C++ compiler's command: ``$CXX``, or the first of the usual names."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    for command in [wanted] if wanted else [["c++"], ["g++"], ["clang++"]]:
        program = shutil.which(command[0])
        if program is not None:
            return [program, *command[1:]]
    return None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise _CommandError(f"{shlex.join(command)}\n{done.stderr or done.stdout}".rstrip())


def _timed(step: str, action: Callable[[], _T], describe: Callable[[_T], str]) -> _T:
    """Run one step, and print what it did and how long it took in milliseconds."""
    start = time.perf_counter()
    result = action()
    milliseconds = (time.perf_counter() - start) * 1e3
    print(f"  {step:<8} {describe(result):<52} {milliseconds:10.3f} ms", flush=True)
    return result


def _load_and_call(session: Session, compile_: Sequence[str], source: Path, folder: Path) -> Dylib:
    name = source.stem
    object_file = folder / f"{name}.o"
    function_name, arguments = _CALLS[name]
    shown = ", ".join(map(repr, arguments))
    print(name)
    _timed(
        "compile",
        lambda: _run([*compile_, "-c", str(source), "-o", str(object_file)]),
        lambda _: f"{source.name} -> {object_file.name}",
    )
    dylib = _timed(
        "load",
        lambda: session.load(object_file, name=name),
        lambda loaded: f"{object_file.name}: {len(loaded.functions)} functions, initialized",
    )
    function = _timed("look up", lambda: dylib.get_function(function_name), lambda _: function_name)
    for step in ("call", "again"):
        _timed(step, lambda: function(*arguments), lambda r: f"{function_name}({shown}) = {r!r}")
    return dylib


def _link_and_dlopen(compiler: Sequence[str], object_file: Path) -> None:
    library = object_file.with_suffix(".so")
    print(f"{object_file.stem}, for comparison as a shared library")
    try:
        _timed(
            "link",
            lambda: _run([*compiler, "-shared", str(object_file), "-o", str(library)]),
            lambda _: f"{object_file.name} -> {library.name}",
        )
    except _CommandError as error:
        print(f"  skipped: {str(error).splitlines()[-1]}")
        return
    _timed(
        "dlopen",
        lambda: tvm_ffi.load_module(library, keep_module_alive=False),
        lambda _: library.name,
    )


def _demo() -> int:
    compiler = _find_compiler()
    if compiler is None:
        wanted = os.environ.get("CXX", "").strip()
        why = (
            f"CXX is {wanted!r}, which is not there" if wanted else "no c++, g++ or clang++ in PATH"
        )
        print(f"demo: needs a C++ compiler: {why}", file=sys.stderr)
        return 2
    include = {libinfo.find_include_path(), libinfo.find_dlpack_include_path()}
    flags = ["-std=c++17", "-O2", "-fPIC", *(f"-I{folder}" for folder in sorted(include))]
    print(
        f"tvm-ffi-object-loader {__version__} (LLVM {_native.llvm_version}), "
        f"apache-tvm-ffi {tvm_ffi.__version__}, compiler {shlex.join(compiler)}"
    )
    sources = Path(__file__).parent / "demo"
    with (
        tempfile.TemporaryDirectory(prefix="object-loader-demo-") as folder,
        Session("demo session") as session,
    ):
        try:
            dylibs = [
                _load_and_call(session, [*compiler, *flags], sources / f"{name}.cc", Path(folder))
                for name in _CALLS
            ]
            print(f"{session.name} now holds {' and '.join(dylib.name for dylib in dylibs)}")
            _link_and_dlopen(compiler, Path(folder) / "math_ops.o")
        except (_CommandError, ObjectLoaderError) as error:
            print(f"demo: failed: {error}", file=sys.stderr)
            return 1
    return 0


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-l",
        "--library",
        action="append",
        default=[],
        metavar="FILE",
        help="a shared library (.so) or an object to load along",
    )
    parser.add_argument(
        "--whole-archive",
        action="store_true",
        dest="whole",
        help="link all members of archives, not only those that are needed",
    )


def _add_inspect(commands: _Commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="show what is in files, and whether they would load here",
        description=(
            "Show what is in objects, archives and other files, and whether they would load here. "
            "Nothing of them is run, unless --run is given. The status is 1 if one would not load."
        ),
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON, a list of inspections")
    parser.add_argument(
        "--together", action="store_true", help="link all files together, not each for itself"
    )
    _add_run(parser)
    _add_common(parser)
    parser.set_defaults(run="run_inspect")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        action="store_true",
        dest="run_code",
        help="load the file, and call what its object has to say of its functions",
    )


def _add_others(commands: _Commands) -> None:
    call = commands.add_parser(
        "call",
        help="load a file and call a function of it",
        description=(
            "Load a file, call a function of it, and print what it returns. Arguments are Python "
            "literals, and strings where they are none. Put -- before those that begin with a dash "
            "and are no numbers."
        ),
    )
    call.add_argument("--time", action="store_true", help="also call it many times: how long?")
    _add_common(call)
    call.add_argument("file", metavar="FILE")
    call.add_argument("name", metavar="NAME")
    call.add_argument("arguments", nargs="*", metavar="ARGUMENT")
    call.set_defaults(run="run_call")
    stub = commands.add_parser(
        "stub",
        help="print a .pyi with the functions of a file",
        description="Print a .pyi with the functions of a file, as far as they are known.",
    )
    stub.add_argument("file", metavar="FILE")
    _add_run(stub)
    _add_common(stub)
    stub.set_defaults(run="run_stub")
    symbols = commands.add_parser("symbols", help="show the symbol table of a file")
    symbols.add_argument("file", metavar="FILE")
    symbols.add_argument("--json", action="store_true", help="print JSON, a list of symbols")
    symbols.set_defaults(run="run_symbols", library=[], whole=False)


class _Parser(argparse.ArgumentParser):
    """A parser that does not pass over a failure to print what was asked for."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        print(self.format_help(), end="", file=file)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{__version__} (LLVM {_native.llvm_version})")
        parser.exit()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="tvm-ffi-object-loader",
        description="Load compiled object files that export TVM-FFI functions.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version, and exit")
    commands = parser.add_subparsers(metavar="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="compile, load and call the shipped examples, and print what each step takes",
        description=(
            "Compile the shipped sources with the machine's C++ compiler ($CXX if it is set), load "
            "them one after the other into one session, call a function of each, and print what "
            "each step takes."
        ),
    )
    demo.set_defaults(run=None)
    _add_inspect(commands)
    _add_others(commands)
    return parser.parse_args(argv)


def _run_command(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parse(argv)
    except SystemExit:
        sys.stdout.flush()
        raise
    if arguments.run is None:
        status = _demo()
    else:
        from . import _commands  # the demo needs none of it

        status = getattr(_commands, arguments.run)(arguments)
    sys.stdout.flush()
    return status


def _abandon_output() -> None:
    """Let nothing more be written to the standard output, also not when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command-line interface.

    Parameters
    ----------
    argv
        The arguments after the program's name; those of the process if it is `None`.

    Returns
    -------
    int
        The exit status: 0 for success, 1 for a failed step or something wrong with a file, 2 for a
        wrong call or no compiler, 130 after Ctrl-C, 141 where nobody reads the output any more.

    Raises
    ------
    SystemExit
        After ``--help``, ``--version``, or arguments that cannot be parsed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names in files are any bytes
    try:
        return _run_command(argv)
    except KeyboardInterrupt:
        _abandon_output()
        return 130
    except BrokenPipeError:
        _abandon_output()
        return 141
    except OSError as error:
        _abandon_output()
        place = error.filename or "standard output"
        print(f"tvm-ffi-object-loader: {place}: {error.strerror}", file=sys.stderr)
        return 1
