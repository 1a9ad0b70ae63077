# SPDX-License-Identifier: Apache-2.0
"""Load compiled object files that export TVM-FFI functions, and call them in this process.

>>> import tvm_ffi_object_loader as tol
>>> loader = tol.ObjectLoader()
>>> loader.load("math_ops.o").get_function("simple_add")(1, 2)
3

The examples in this package load ``math_ops.o`` and ``string_ops.o``, compiled from the sources in
its folder ``demo``.
"""

from . import _requirements as _requirements  # stays first
from .dylib import Dylib
from .errors import (
    DuplicateSymbolError,
    FunctionNotFoundError,
    LinkError,
    ObjectFormatError,
    ObjectLoaderError,
    SessionClosedError,
    UndefinedSymbolError,
)
from .loader import ObjectLoader, load_module, register_with_tvm_ffi
from .session import Session, default_session

__version__ = "0.1.0"

__all__ = [
    "DuplicateSymbolError",
    "Dylib",
    "FunctionNotFoundError",
    "LinkError",
    "ObjectFormatError",
    "ObjectLoader",
    "ObjectLoaderError",
    "Session",
    "SessionClosedError",
    "UndefinedSymbolError",
    "__version__",
    "default_session",
    "load_module",
]

register_with_tvm_ffi()
