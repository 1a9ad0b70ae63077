# SPDX-License-Identifier: Apache-2.0
"""What the package adds to tvm-ffi itself: it is as good there as here to load objects.

``tvm_ffi.load_module`` takes them, and the functions of their modules are called without a detour,
whichever way a module came. What an error of ours holds is still there when tvm-ffi has carried it.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import threading
from collections.abc import Callable
from typing import Any

import tvm_ffi

from . import _native
from .errors import DuplicateSymbolError, UndefinedSymbolError
from .loader import load_module

# Not promised by tvm-ffi, and neither is what it holds.
_core: Any = getattr(tvm_ffi, "core", None)

# tvm-ffi carries an error's kind and message from a callback to its caller, and makes the exception
# anew from these. What else an exception holds (`.symbols`, `.filename`) waits here meanwhile.
_returning = threading.local()


def _restore(kind: str, default: Callable[[str], BaseException]) -> None:
    def new(_cls: type, message: str) -> BaseException:
        error: BaseException | None = getattr(_returning, "error", None)
        _returning.error = None
        if error is not None and type(error).__name__ == kind and str(error) == message:
            return error
        return default(message)

    # tvm-ffi takes nothing but a class here.
    _core.ERROR_NAME_TO_TYPE[kind] = type(kind, (), {"__new__": new, "_restored_by": _returning})


def _carry(error: OSError | UndefinedSymbolError | DuplicateSymbolError) -> None:
    kind = type(error).__name__
    # Others' classes stay. One of ours may be of an earlier import.
    known = _core.ERROR_NAME_TO_TYPE.get(kind)
    if known is None or getattr(known, "_restored_by", _returning) is not _returning:
        _restore(kind, RuntimeError)
    _returning.error = copy.copy(error)
    error.__dict__["__tvm_ffi_error__"] = _core.Error(kind, str(error), "")


def _load_from_file(path: str, _format: str) -> tvm_ffi.Module:
    try:
        return load_module(str(path))
    except (OSError, UndefinedSymbolError, DuplicateSymbolError) as error:
        # An Error of tvm-ffi's has a kind, which it then carries as such. A release whose internals
        # are others makes what it can of the exception.
        if hasattr(_core, "ERROR_NAME_TO_TYPE") and hasattr(_core, "Error"):
            _carry(error)
        raise


def _make_functions_fast(module_class: type[tvm_ffi.Module]) -> None:
    """Make modules of this class, and of those derived from it, give out fast functions."""
    get_function: Any = getattr(module_class, "get_function", None)
    if get_function is None or hasattr(get_function, "_gives_fast_functions"):
        return

    # Attributes, items and calls of a module go through it, and TVM's own class inherits it.
    @functools.wraps(get_function)
    def get_fast_function(*arguments: object, **keywords: object) -> tvm_ffi.Function:
        # It is an argument at once, and has no name here: nobody else may have it.
        return _native.fast_function(get_function(*arguments, **keywords))

    get_fast_function._gives_fast_functions = True  # type: ignore[attr-defined]
    module_class.get_function = get_fast_function  # type: ignore[method-assign]


def _complete_functions(module_class: type[tvm_ffi.Module]) -> None:
    """Let ``dir`` of a module, and so a notebook's completion, have the functions of objects."""
    list_names: Any = module_class.__dir__
    if hasattr(list_names, "_has_functions"):
        return

    @functools.wraps(list_names)
    def list_names_and_functions(self: tvm_ffi.Module) -> list[str]:
        return sorted({*list_names(self), *_native.functions_of(self.__chandle__())})

    list_names_and_functions._has_functions = True  # type: ignore[attr-defined]
    module_class.__dir__ = list_names_and_functions  # type: ignore[assignment,method-assign]


def _make_modules_sendable(module_class: type[tvm_ffi.Module]) -> None:
    """Let modules be pickled that were loaded from objects; a copy of any module is itself."""
    reduce_otherwise: Any = module_class.__reduce__
    if hasattr(reduce_otherwise, "_sends_modules"):
        return

    @functools.wraps(reduce_otherwise)
    def reduce(self: tvm_ffi.Module) -> Any:
        from .transport import reduce_module

        return reduce_module(self, reduce_otherwise)

    def itself(self: tvm_ffi.Module, _memo: object = None) -> tvm_ffi.Module:
        return self

    def tokenize(self: tvm_ffi.Module) -> Any:
        from .transport import tokenize_module

        return tokenize_module(self)

    reduce._sends_modules = True  # type: ignore[attr-defined]
    added = {"__reduce__": reduce, "__copy__": itself, "__deepcopy__": itself}
    for name, method in {**added, "__dask_tokenize__": tokenize}.items():
        setattr(module_class, name, method)


def _reduce_function(function: tvm_ffi.Function) -> Any:
    from .transport import reduce_plain_function

    return reduce_plain_function(function)


def extend_tvm_ffi() -> None:
    """Let ``tvm_ffi.load_module`` load ``.o`` and ``.a`` files through the default session.

    Functions of a `tvm_ffi.Module` that are loaded from objects are then as fast as those of
    `Dylib.get_function`; those of other modules are what they were.

    It is done when the package is imported, and doing it again changes nothing.

    Raises
    ------
    RuntimeError
        If tvm-ffi refuses the registration.
    """
    if hasattr(_core, "ERROR_NAME_TO_TYPE"):
        for cls in (UndefinedSymbolError, DuplicateSymbolError):
            _restore(cls.__name__, cls)
    _make_functions_fast(tvm_ffi.Module)
    _complete_functions(tvm_ffi.Module)
    _make_modules_sendable(tvm_ffi.Module)
    # Its attributes cannot be set.
    copyreg.pickle(tvm_ffi.Function, _reduce_function)
    for suffix in ("o", "a"):
        loader = f"ffi.Module.load_from_file.{suffix}"
        tvm_ffi.register_global_func(loader, _load_from_file, override=True)
