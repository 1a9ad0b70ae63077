# SPDX-License-Identifier: Apache-2.0
"""What functions of loaded objects give: what they give after the linker has linked the objects."""

from __future__ import annotations

from pathlib import Path

import tvm_ffi_object_loader as tol
from compilation import Compiler

ARGUMENTS = (0, 1, 2)


def agree(
    session: tol.Session, compile: Compiler, objects: list[Path], plain: list[Path] | None = None
) -> list[int]:
    """The function ``run`` gives what it does after the objects, or `plain`, were linked."""
    dlopened = compile.dlopen(*(plain or objects))
    loaded = session.load(objects)
    results = [loaded["run"](argument) for argument in ARGUMENTS]
    assert results == [dlopened.run(argument) for argument in ARGUMENTS]
    return results


# With -fcommon: common symbols, each of a type.
TYPED = """
#include "safe_call.h"
int cm;
double cd[100];
char text[3];
EXPORT(run) {
  cm += 3;
  cd[99] = 4;
  text[2] += 1;
  RETURN(cm + (int)cd[99] + (int)cd[0] + text[2] * 100 + INT(0));
}
"""
