# SPDX-License-Identifier: Apache-2.0
"""Load compiled object files that export TVM-FFI functions, and call them in this process.

>>> import tvm_ffi_object_loader as tol
>>> loader = tol.ObjectLoader()
>>> loader.load("math_ops.o").get_function("simple_add")(1, 2)
3

The examples in this package load ``math_ops.o`` and ``string_ops.o``, compiled from the sources in
its folder ``demo``.
"""

from typing import TYPE_CHECKING

from . import _requirements as _requirements  # stays first
from ._tvm_ffi import extend_tvm_ffi
from .dylib import Dylib
from .errors import (
    DuplicateSymbolError,
    FrozenCacheError,
    FunctionNotFoundError,
    LinkError,
    LoadAllError,
    ObjectFormatError,
    ObjectLoaderError,
    SessionClosedError,
    UndefinedSymbolError,
)
from .loader import ObjectLoader, load_module
from .orcjit import OrcjitRegistration, register_as_orcjit
from .process_session import default_session
from .session import Session

__version__ = "0.1.0"

__all__ = [
    "DuplicateSymbolError",
    "Dylib",
    "DylibStats",
    "FrozenCacheError",
    "FunctionNotFoundError",
    "Holders",
    "Inspection",
    "LinkError",
    "LoadAllError",
    "Location",
    "ObjectCache",
    "ObjectFormatError",
    "ObjectLoader",
    "ObjectLoaderError",
    "OrcjitRegistration",
    "Session",
    "SessionClosedError",
    "SessionStats",
    "Symbol",
    "UndefinedSymbolError",
    "__version__",
    "build_object",
    "default_session",
    "inspect",
    "load_inline",
    "load_module",
    "object_key",
    "register_as_orcjit",
    "symbolize",
]

if TYPE_CHECKING:
    from .cache import ObjectCache
    from .inline import build_object, load_inline
    from .inspection import Inspection, inspect
    from .keys import object_key
    from .statistics import DylibStats, Holders, SessionStats
    from .symbols import Location, Symbol, symbolize
else:
    # What not everybody needs is imported when it is first used.
    _LAZY = {
        "DylibStats": "statistics",
        "Holders": "statistics",
        "Inspection": "inspection",
        "Location": "symbols",
        "ObjectCache": "cache",
        "SessionStats": "statistics",
        "Symbol": "symbols",
        "build_object": "inline",
        "inspect": "inspection",
        "load_inline": "inline",
        "object_key": "keys",
        "symbolize": "symbols",
    }

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        import importlib

        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})


extend_tvm_ffi()
