# SPDX-License-Identifier: Apache-2.0
"""What is in files, as programs read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tvm_ffi_object_loader as tol
from tvm_ffi_object_loader.inspection import FileReport


def missing(paths: list[Path]) -> Iterator[str]:
    """Yield what objects lack, and which of their GPU code does not run here."""
    found: tol.Inspection = tol.inspect(paths, whole_archive=False, run=False)
    loads: bool | None = found.loads
    as_dict: dict[str, Any] = found.as_dict()
    print(loads, found.why_not, as_dict)
    file: FileReport
    for file in found.files:
        for reference in file.references:
            if reference.where == "nowhere":
                yield reference.demangled
        for code in file.gpu_code:
            if code.runs_here is False:
                yield code.architecture
        signatures: list[str | None] = [function.signature for function in file.functions]
        total: int = file.sizes.code + sum(file.relocations.values())
        print(signatures, total, file.symbols[0].name, file.members)


def at(session: tol.Session, address: int) -> str:
    """Say what lies at an address of loaded code."""
    location: tol.Location | None = tol.symbolize(address) or session.symbolize(address)
    if location is None:
        return "nothing of ours"
    symbol: tol.Symbol | None = location.symbol
    offset: int | None = location.offset
    return f"{location.dylib}: {'?' if symbol is None else symbol.name} + {offset}"


def static_functions(dylib: tol.Dylib) -> list[str]:
    """Return the names of the static functions of a dylib."""
    return [symbol.name for symbol in dylib.symbols if symbol.is_function and symbol.is_static]
