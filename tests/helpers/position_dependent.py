# SPDX-License-Identifier: Apache-2.0
"""Objects compiled with -fno-pic: each way to compile them, and what their functions give."""

from __future__ import annotations

import itertools

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Toolchain
from processors import X86_64, only_on

addresses_of_32_bits = only_on(X86_64, "code that depends on its position has addresses of 32 bits")

LEVELS = ("-O0", "-O1", "-O2", "-O3")
PIC = ("-O1", "-fPIC")
ARGUMENTS = (0, 1, 2, 3)
every_way = pytest.mark.parametrize(
    ("toolchain", "level"),
    [
        pytest.param(toolchain, level, id=f"{toolchain.name} {level}")
        for toolchain, level in itertools.product(TOOLCHAINS, LEVELS)
    ],
)
one_way_each = pytest.mark.parametrize(
    "toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name
)


def fixed(level: str, toolchain: Toolchain) -> tuple[str, ...]:
    """Return the flags for code that depends on its position."""
    return (level, "-fno-pic", "-no-pie") if toolchain is GCC else (level, "-fno-pic")


def results(module: tol.Dylib | tvm_ffi.Module, name: str = "run") -> list[int]:
    return [module.get_function(name)(argument) for argument in ARGUMENTS]
