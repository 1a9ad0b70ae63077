# SPDX-License-Identifier: Apache-2.0
"""Objects with section groups, which are given to one load, or to one load each of the same dylib.

Either way the linked library that has them all is what they are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

both_ways = pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])


def load(session: tol.Session, together: bool, *objects: Path | bytes) -> tol.Dylib:
    """Load the objects into a dylib, at once or one after the other."""
    dylib = session.create_dylib()
    for given in [list(objects)] if together else [[each] for each in objects]:
        dylib.load(given)
    return dylib


def called(of: tol.Dylib | tvm_ffi.Module, names: Sequence[str], *arguments: int) -> list[Any]:
    return [of.get_function(name)(*arguments) for name in names]


def compared(
    session: tol.Session,
    compile: Compiler,
    together: bool,
    objects: Sequence[Path],
    names: Sequence[str],
    *arguments: int,
) -> list[Any]:
    """Return what the functions return, which is what the linked library's return."""
    ours = called(load(session, together, *objects), names, *arguments)
    assert ours == called(compile.dlopen(*objects), names, *arguments)
    return ours
