# SPDX-License-Identifier: Apache-2.0
"""Members of archives that trace that they are linked, and an archive of functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from archives import MakeArchive
from compilation import Compiler

EVENT = """
#include "safe_call.h"
#include "trace.h"
__attribute__((constructor)) static void init(void) { trace(EVENT); }
"""


def member(compile: Compiler, event: int, code: str, *flags: str) -> Path:
    """Compile an object that traces `event` when it is initialized."""
    return compile(f"{EVENT}\n{code}\n", *(flags or ("-O1", "-fPIC")), f"-DEVENT={event}")


FUNCTIONS = {
    "add": "EXPORT(add) { RETURN(INT(0) + INT(1)); }",
    "scale": "int64_t factor(void); EXPORT(scale) { RETURN(INT(0) * factor()); }",
    "factor": "int64_t factor(void) { return 7; }",
    "unused": "int unused(void) { return 9; }",
}


@pytest.fixture
def functions(compile: Compiler, make_archive: MakeArchive) -> Path:
    """Return an archive with two functions, a member that they need and one that they don't."""
    return make_archive(
        **{
            name: member(compile, event, code)
            for event, (name, code) in enumerate(FUNCTIONS.items(), 1)
        }
    )
