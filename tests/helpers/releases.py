# SPDX-License-Identifier: Apache-2.0
"""What older releases of tvm-ffi lack of what tests need."""

from __future__ import annotations

import pytest
import tvm_ffi

# The first release that has it.
FIRST_WITH = {
    "instances of its classes for tests": (0, 1, 10),
    "allocators": (0, 1, 13),
    "objects of its build_inline": (0, 1, 10),
    "error for modules that cannot be pickled": (0, 1, 10),
    "containers that belong to a framework": (0, 1, 11),
}


def has(what: str) -> bool:
    """Return whether the installed release has it."""
    return tuple(tvm_ffi.__version_tuple__[:3]) >= FIRST_WITH[what]


def needs(what: str) -> pytest.MarkDecorator:
    """Skip a test where the installed release lacks it."""
    return pytest.mark.skipif(
        not has(what),
        reason=f"apache-tvm-ffi {tvm_ffi.__version__} has no {what}",
    )
