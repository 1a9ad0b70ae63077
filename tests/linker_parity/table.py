# SPDX-License-Identifier: Apache-2.0
"""What loads: every kind with dlopen, with this package and with the peer, as a Markdown table.

``python tests/linker_parity/table.py`` prints the table; with ``--write`` it replaces the one in
docs/what-loads.md, or that of another processor beside it. The loads run in processes of their own,
since the peer may crash.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from compilation import Compiler
from folders import ROOT
from kind import Kind, Variant
from processors import EMULATED, PROCESSOR, X86_64
from registry import ABSENT, KINDS
from ways import Answer, Request

PAGE = ROOT / "docs" / f"{'what-loads' if PROCESSOR is X86_64 else PROCESSOR.name.lower()}.md"
BEGIN = f"<!-- what loads on {PROCESSOR.name}: begin -->\n"
END = f"<!-- what loads on {PROCESSOR.name}: end -->\n"
NOT_HERE = f"Compilers make no such objects for {PROCESSOR.name}: "
PEER = "apache-tvm-ffi-orcjit"
LOADS, REFUSED, WRONG, CRASHES, HANGS = "✓", "refused", "wrong result", "crashes", "hangs"
WORST_FIRST = (CRASHES, HANGS, WRONG, REFUSED)
SECONDS_A_LOAD = 60 if EMULATED else 30


def peer_version() -> str | None:
    """Return the version of the peer that is installed, if one is."""
    try:
        return importlib.metadata.version(PEER)
    except importlib.metadata.PackageNotFoundError:
        return None


def answers(way: str, requests: list[Request]) -> list[Answer | str]:
    """Load one way: what each request gave, or how the process ended in it."""
    done: list[Answer | str] = []
    while len(done) < len(requests):
        rest = requests[len(done) :]
        command = [sys.executable, str(Path(__file__).with_name("ways.py")), way]
        try:
            process = subprocess.run(
                command,
                input=json.dumps(rest),
                capture_output=True,
                text=True,
                timeout=SECONDS_A_LOAD * len(rest),
            )
            output, ended = process.stdout, CRASHES if process.returncode else ""
        except subprocess.TimeoutExpired as expired:
            output, ended = (expired.stdout or b"").decode(), HANGS
        done += [json.loads(line) for line in output.splitlines()]
        if len(done) < len(requests):
            done.append(ended or CRASHES)
    return done


def verdict(answer: Answer | str, expected: list[int]) -> str:
    """Return what the table says of one load."""
    if isinstance(answer, str):
        return answer
    if answer["refused"]:
        return REFUSED
    return LOADS if answer["results"] == expected else WRONG


def linked(compile: Compiler, kind: Kind, variant: Variant, flags: tuple[str, ...] | None) -> str:
    """Link a shared library of the kind's sources, where the linker makes one."""
    try:
        objects = kind.objects(compile, variant, flags)
        return str(compile.link(*objects, flags=kind.link_flags, quiet=True))
    except subprocess.CalledProcessError:
        return ""


@functools.cache
def verdicts(compile: Compiler, kind: Kind, ways: tuple[str, ...]) -> dict[str, Counter[str]]:
    """Return how often each way ended how, over all variants of a kind."""
    requests, references = [], []
    for variant in kind.variants():
        library = linked(compile, kind, variant, None)
        reference = library
        if kind.reference_flags is not None:
            reference = linked(compile, kind, variant, kind.reference_flags)
        request = Request(
            objects=[str(path) for path in kind.objects(compile, variant)],
            library=library,
            arguments=list(kind.arguments),
            preload=list(kind.preload),
        )
        requests.append(request)
        references.append(Request({**request, "library": reference}))
    dlopened = answers("dlopen", references)
    if kind.expected is not None:
        expected = [list(kind.expected)] * len(requests)
    else:
        expected = [[] if isinstance(answer, str) else answer["results"] for answer in dlopened]
        assert all(expected), f"{kind.name}: the reference did not run"
    given = {"dlopen": dlopened} if references == requests else {}
    return {
        way: Counter(map(verdict, given.get(way) or answers(way, requests), expected))
        for way in ways
    }


def cell(counts: Counter[str]) -> str:
    """Return what the table says of all loads of a row."""
    if set(counts) == {LOADS}:
        return LOADS
    worst = next(outcome for outcome in WORST_FIRST if counts[outcome])
    return worst if set(counts) == {worst} else f"{worst} ({counts[worst]} of {counts.total()})"


def rows(compile: Compiler, ways: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the cells of each title."""
    totals: dict[str, dict[str, Counter[str]]] = {}
    for kind in KINDS:
        total = totals.setdefault(kind.title, {way: Counter() for way in ways})
        for way, counts in verdicts(compile, kind, ways).items():
            total[way] += counts
    return {title: [cell(total[way]) for way in ways] for title, total in totals.items()}


def table(compile: Compiler) -> str:
    """Return the table, with the peer where it is installed."""
    version = peer_version()
    ways: tuple[str, ...] = ("dlopen", "loader", *(("peer",) if version else ()))
    header = [
        "",
        "`cc -shared` + dlopen",
        "this package",
        *([f"{PEER} {version}"] if version else []),
    ]
    lines = [header, ["---"] * len(header)]
    lines += [[title, *cells] for title, cells in rows(compile, ways).items()]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text + (f"\n{NOT_HERE}{', '.join(ABSENT)}.\n" if ABSENT else "")


def committed() -> list[list[str]]:
    """Return the cells of this processor's table, with its two lines of header."""
    return [
        [cell.strip() for cell in line.strip("|\n ").split(" | ")]
        for line in _committed_text().splitlines()
        if line.startswith("|")
    ]


def committed_absent() -> str:
    """Return what is said not to exist on this processor."""
    return _committed_text().partition(NOT_HERE)[2].strip(".\n")


def _committed_text() -> str:
    return PAGE.read_text().split(BEGIN)[1].split(END)[0]


def main(arguments: Iterable[str]) -> None:
    """Print the table, or write it into its page."""
    with tempfile.TemporaryDirectory() as folder:
        text = table(Compiler(Path(folder)))
    if "--write" in arguments:
        page = PAGE.read_text()
        pattern = re.escape(BEGIN) + ".*" + re.escape(END)
        assert re.search(pattern, page, re.DOTALL)
        PAGE.write_text(re.sub(pattern, lambda _: BEGIN + text + END, page, flags=re.DOTALL))
    else:
        print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
