# SPDX-License-Identifier: Apache-2.0
"""The class of the modules of dylibs: their functions are called without a detour."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from . import _native

if TYPE_CHECKING:
    import tvm_ffi


_classes: dict[type[tvm_ffi.Module], type[tvm_ffi.Module]] = {}


def module_class(base: type[tvm_ffi.Module]) -> type[tvm_ffi.Module]:
    """Derive the class from the one that tvm-ffi gives modules, which TVM replaces by its own.

    Parameters
    ----------
    base
        That class.

    Returns
    -------
    type
        The same one for the same base.
    """
    found = _classes.get(base)
    return found if found is not None else _classes.setdefault(base, _derive(base))


def _derive(base: type[tvm_ffi.Module]) -> type[tvm_ffi.Module]:
    class Module(base):  # type: ignore[misc,valid-type]
        __slots__ = ()
        __doc__ = base.__doc__

        # Attributes, items and calls of the module go through it.
        @functools.wraps(base.get_function)
        def get_function(self, name: str, query_imports: bool = False) -> tvm_ffi.Function:
            # It must have no other reference here: its handle is to become another one's.
            return _native.fast_function(super().get_function(name, query_imports))

    Module.__module__, Module.__qualname__ = base.__module__, base.__qualname__
    return Module
