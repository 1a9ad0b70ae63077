# SPDX-License-Identifier: Apache-2.0
"""An inspection as tables."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from ._reports import FileReport, Inspection, demangled
from ._text import Table

_WHERE = {
    "package": "supplied by this package",
    "linker": "made by the linker",
    "objects": "in the objects given along",
    "null": "nowhere, and need not be (weak)",
    "unused": "not searched: nothing that is loaded refers to it",
    "unknown": "not searched: it cannot be linked",
    "nowhere": "NOWHERE",
}
_MOST_MEMBERS = 200


def describe(found: Inspection) -> Iterator[Table]:
    """Yield the tables that show what was found in the files."""
    for file in found.files:
        yield from _describe_file(file, found)


def _verdict(found: Inspection) -> str:
    if found.loads:
        return "yes"
    if found.loads is None:
        return "not tried: opening a shared library runs its constructors"
    missing = [
        reference
        for file in found.files
        for part in (file, *file.members)
        for reference in part.references
        if reference.where == "nowhere"
    ]
    if missing:
        return f"no: {len(missing)} symbols are defined nowhere"
    return f"no: {found.why_not}"


def _describe_file(file: FileReport, found: Inspection) -> Iterator[Table]:
    sizes = file.sizes
    facts = [("kind", file.kind)]
    if file.processor:
        facts.append(("processor", file.processor))
    facts += [("compiler", compiler) for compiler in file.compilers]
    facts.append(("size", f"{sizes.file:,} bytes"))
    loaded = (("code", sizes.code), ("constants", sizes.constants), ("data", sizes.data))
    parts = [f"{size:,} {name}" for name, size in (*loaded, ("zeros", sizes.zeros)) if size]
    if parts:
        facts.append(("loaded", ", ".join(parts)))
    if file.thread_locals:
        facts.append(("thread-local", f"{file.thread_locals:,} bytes a thread"))
    if file.initializers or file.finalizers:
        runs = f"{file.initializers} initializers, {file.finalizers} finalizers"
        facts.append(("runs", runs))
    if file.debug:
        facts.append(("debug", f"{file.debug}, {sizes.debug:,} bytes"))
    if file.problem:
        facts.append(("problem", file.problem))
    facts += _split("loads here", _verdict(found))
    yield Table(file.name, (), facts)
    if file.functions:
        rows = []
        for function in file.functions:
            rows.append((function.name, function.signature or _unknown(function.has_metadata)))
            rows += [("", line) for line in (function.doc or "").splitlines()]
        yield Table(f"functions: {len(file.functions)}", (), rows)
    if file.references:
        yield Table(f"undefined symbols: {len(file.references)}", (), _references(file))
    if file.relocations:
        counts = [(kind, f"{count:,}") for kind, count in file.relocations.items()]
        yield Table(f"relocations: {sum(file.relocations.values()):,}", (), counts)
    if file.gpu_code:
        yield Table("GPU code", ("kind", "for", "in", "runs here"), _gpu_rows(file, found))
    if file.modules:
        rows = [(module.kind, f"{module.size:,} bytes") for module in file.modules]
        yield Table("embedded modules", (), rows)
    if file.members:
        yield from _members(file)


def _split(name: str, text: str) -> list[tuple[str, str]]:
    first, *others = text.splitlines() or [""]
    return [(name, first), *(("", line) for line in others)]


def _unknown(has_metadata: bool) -> str:
    return "(its object says more when it is run: --run)" if has_metadata else "(*args)"


def _references(file: FileReport) -> list[tuple[str, str]]:
    """Return the symbols by where they are found; what is missing comes first."""
    places: dict[str, list[str]] = collections.defaultdict(list)
    for reference in file.references:
        place = _WHERE.get(reference.where) or reference.library or "in the program"
        places[place].append(demangled(reference.symbol))
    missing = places.pop(_WHERE["nowhere"], [])
    ordered = [(_WHERE["nowhere"], missing), *sorted(places.items())]
    return [(place, name) for place, names in ordered for name in sorted(names)]


def _gpu_rows(file: FileReport, found: Inspection) -> list[tuple[str, ...]]:
    gpus = ", ".join(found.gpus)
    answers = {None: "no GPU here", True: f"yes ({gpus})", False: f"NO: the GPUs here are {gpus}"}
    return [
        (code.kind, code.architecture, code.section, answers[code.runs_here])
        for code in file.gpu_code
    ]


def _members(file: FileReport) -> Iterator[Table]:
    rows = [
        (
            member.name.removeprefix(file.name).strip("()"),
            member.problem or member.kind,
            f"{member.sizes.file:,}",
            ", ".join(function.name for function in member.functions),
        )
        for member in file.members[:_MOST_MEMBERS]
    ]
    left = len(file.members) - _MOST_MEMBERS
    if left > 0:
        rows.append((f"and {left} more", "", "", ""))
    columns = ("member", "kind", "bytes", "functions")
    yield Table(f"members: {len(file.members)}", columns, rows)
    missing = sorted(
        {
            (demangled(reference.symbol), member.name.removeprefix(file.name).strip("()"))
            for member in file.members
            for reference in member.references
            if reference.where == "nowhere"
        }
    )
    if missing:
        yield Table(f"undefined symbols: {len(missing)}", (), missing)
