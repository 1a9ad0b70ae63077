# SPDX-License-Identifier: Apache-2.0
"""A function loaded and dlopened, and what calls of it give in a form to compare."""

from __future__ import annotations

import re
from typing import Any

import numpy
import tvm_ffi

import tvm_ffi_object_loader as tol

# The base of tvm-ffi's classes, which has another name since 0.1.10.
OBJECT = getattr(tvm_ffi.core, "CObject", tvm_ffi.Object)


class Pair:
    def __init__(self, module: tvm_ffi.Module, dylib: tol.Dylib, name: str) -> None:
        self.dlopened: Any = module.get_function(name)
        self.loaded: Any = dylib.get_function(name)


def outcome(function: Any, *arguments: Any, **keywords: Any) -> tuple[type, object]:
    """The result in a form to compare, or the error."""
    try:
        result = function(*arguments, **keywords)
    except Exception as error:
        # PyTorch appends the stack, which has the callers in it.
        return (type(error), str(error).partition("\nException raised from")[0])
    return (type(result), plain(result))


def plain(result: object) -> object:
    if isinstance(result, (tvm_ffi.Array, tvm_ffi.List, list, tuple)):
        return [plain(item) for item in result]
    if isinstance(result, (tvm_ffi.Map, dict)):
        return [(plain(key), plain(item)) for key, item in result.items()]
    if isinstance(result, tvm_ffi.Tensor):
        try:
            return numpy.from_dlpack(result).tolist()
        except (BufferError, RuntimeError):  # of a type or on a device that NumPy lacks
            return (result.shape, result.dtype, result.device)
    if isinstance(result, OBJECT) or type(result).__repr__ is object.__repr__:
        return type(result)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(result))
