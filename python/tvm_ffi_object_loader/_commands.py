# SPDX-License-Identifier: Apache-2.0
"""The commands that look into files: inspect, call, stub, symbols."""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

from . import Session
from ._reports import FileReport, Inspection
from ._show import describe
from ._stub import stub
from ._text import Table, clean, write
from .errors import ObjectLoaderError
from .inspection import inspect

PROGRAM = "tvm-ffi-object-loader"


def complain(message: str) -> None:
    """Print why something was not done."""
    lines = "\n".join(map(clean, message.splitlines()))
    print(f"{PROGRAM}: {lines}", file=sys.stderr)


def _inspected(arguments: argparse.Namespace, files: Sequence[str]) -> Inspection | None:
    """Return what is in files; where they cannot be read, say so and return `None`."""
    run = getattr(arguments, "run_code", False)
    try:
        return inspect([*files, *arguments.library], whole_archive=arguments.whole, run=run)
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}")
    except (ObjectLoaderError, ValueError) as error:
        complain(str(error))
    return None


def _is_legible(file: FileReport, found: Inspection) -> bool:
    """Tell whether anything can be said of a file; where not, complain."""
    if file.kind != "other" and (file.problem is None or file.members):
        return True
    why = file.problem and f"{file.name}: {file.problem}"
    complain(why or (found.why_not or f"{file.name}: is no object").splitlines()[0])
    return False


def run_inspect(arguments: argparse.Namespace) -> int:
    """Show what is in files, each for itself unless they are to be linked together."""
    groups = [arguments.files] if arguments.together else [[file] for file in arguments.files]
    status = 0
    reports = []
    for number, files in enumerate(groups):
        found = _inspected(arguments, files)
        if found is None:
            status = 1
            continue
        status |= found.loads is False
        if arguments.json:
            reports.append(found.as_dict())
            continue
        legible = [_is_legible(file, found) for file in found.files]
        if all(legible):
            if number:
                print()
            write(list(describe(found)))
    if arguments.json:
        json.dump(reports, sys.stdout, indent=2)
        print()
    return int(status)


def run_symbols(arguments: argparse.Namespace) -> int:
    """Show the symbol table of a file."""
    found = _inspected(arguments, [arguments.file])
    if found is None or not _is_legible(found.files[0], found):
        return 1
    if arguments.json:
        json.dump(list(_symbols_as_json(found.files[0])), sys.stdout, indent=2)
        print()
        return 0
    columns = ("offset", "size", "binding", "kind", "section", "name")
    for file in _with_members(found.files[0]):
        rows = [
            (
                f"{symbol.offset:#x}",
                f"{symbol.size}",
                f"{symbol.binding}{', hidden' if symbol.is_hidden else ''}",
                symbol.kind,
                symbol.section,
                symbol.demangled,
            )
            for symbol in sorted(file.symbols, key=lambda symbol: (symbol.section, symbol.offset))
        ]
        if rows:
            write([Table(file.name if found.files[0].members else "", columns, rows)])
    return 0


def _with_members(file: FileReport) -> Iterator[FileReport]:
    yield file
    for member in file.members:
        yield from _with_members(member)


def _symbols_as_json(file: FileReport) -> Iterator[dict[str, object]]:
    for part in _with_members(file):
        for symbol in part.symbols:
            yield {"file": part.name, "demangled": symbol.demangled, **symbol.as_dict()}


def run_stub(arguments: argparse.Namespace) -> int:
    """Print a ``.pyi`` for the functions of a file."""
    found = _inspected(arguments, [arguments.file])
    if found is None or not _is_legible(found.files[0], found):
        return 1
    print(stub(found.files[:1]), end="")
    return 0


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def run_call(arguments: argparse.Namespace) -> int:
    """Load a file, call a function of it, and print what it returns."""
    values = [_literal(text) for text in arguments.arguments]
    with Session() as session:
        start = time.perf_counter()
        try:
            dylib = session.load(
                [arguments.file, *arguments.library], whole_archive=arguments.whole
            )
            loaded = time.perf_counter()
            function = dylib.get_function(arguments.name)
        except OSError as error:
            complain(f"{error.filename}: {error.strerror}")
            return 1
        except (ObjectLoaderError, ValueError) as error:
            complain(str(error))
            return 1
        begun = time.perf_counter()
        try:
            result = function(*values)
        except Exception as error:
            complain(f"{arguments.name}: {type(error).__name__}: {error}")
            return 1
        ended = time.perf_counter()
        print(clean(repr(result)))
        if arguments.time:
            sys.stdout.flush()
            rounds = [_time_calls(function, values) for _ in range(5)]
            print(
                f"load {(loaded - start) * 1e3:.3f} ms, first call {(ended - begun) * 1e6:.1f} us, "
                f"then {statistics.median(rounds) * 1e9:.0f} ns a call (median of 5 rounds)",
                file=sys.stderr,
            )
        # What loaded code has made goes before the code does.
        del result
    return 0


def _time_calls(function: object, values: list[object]) -> float:
    """Return the seconds that a call takes on average, of as many as fit into 20 ms."""
    assert callable(function)
    count = 0
    start = now = time.perf_counter()
    while now - start < 0.02:
        for _ in range(100):
            function(*values)
        count += 100
        now = time.perf_counter()
    return (now - start) / count
