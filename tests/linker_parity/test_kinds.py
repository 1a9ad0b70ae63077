# SPDX-License-Identifier: Apache-2.0
"""What `cc -shared` and dlopen load, this package loads, with the same results."""

from __future__ import annotations

import ctypes

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from kind import Kind, Variant
from registry import KINDS


def results(functions: tol.Dylib | tvm_ffi.Module, kind: Kind) -> list[int]:
    return [functions["run"](argument) for argument in kind.arguments]


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        pytest.param(
            kind,
            variant,
            id=f"{kind.name}, {variant}",
            marks=[] if variant.level == kind.usual_level else [pytest.mark.matrix],
        )
        for kind in KINDS
        for variant in kind.variants()
    ],
)
def test_results_are_those_of_the_dlopened_build(
    session: tol.Session, compile: Compiler, kind: Kind, variant: Variant
) -> None:
    for library in kind.preload:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    objects = kind.objects(compile, variant)
    if kind.refused:
        with pytest.raises(tol.ObjectLoaderError, match=kind.refused):
            session.load(objects)
        return
    if kind.expected is None:
        reference = kind.reference(compile, variant)
        expected = results(tvm_ffi.load_module(reference, keep_module_alive=False), kind)
    else:
        expected = list(kind.expected)
    assert results(session.load(objects), kind) == expected
