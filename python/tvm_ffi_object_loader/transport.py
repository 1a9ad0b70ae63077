# SPDX-License-Identifier: Apache-2.0
"""Functions, modules and dylibs in other processes: how they are pickled, and made again.

What is pickled holds the bytes of the objects, so that the receiving process needs no file of the
sender's but shared libraries. Pickles name the functions ``restore_…`` of this module, and those of
`recipes` that read one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import tvm_ffi

from . import _native, _received
from .errors import SessionClosedError
from .loader import ObjectLoader
from .session import Session

if TYPE_CHECKING:
    from ._native import Dylib as NativeDylib
    from .dylib import Dylib
    from .recipes import Recipe

    Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


def restore_function(recipe: Recipe, name: str) -> tvm_ffi.Function:
    """Return a function of the dylib that a recipe stands for.

    Raises
    ------
    ObjectLoaderError, OSError, pickle.UnpicklingError
        As `_received.receive` raises them.
    """
    return _received.receive(recipe, lambda dylib: dylib.get_function(name))


def restore_module(recipe: Recipe, is_root: bool) -> tvm_ffi.Module:
    """Return the module of the dylib that a recipe stands for.

    Parameters
    ----------
    recipe
        The recipe.
    is_root
        Whether it is the one that `Dylib.module` is, the root of the modules embedded in the
        objects; otherwise it is the one among its imports that has the dylib's own functions.

    Raises
    ------
    ObjectLoaderError, OSError, pickle.UnpicklingError
        As `_received.receive` raises them.
    """

    def get(dylib: NativeDylib) -> tvm_ffi.Module:
        root = dylib.module()
        return root if is_root else next(each for each in _tree(root) if _is_of(each, dylib))

    return _received.receive(recipe, get)


def restore_dylib(recipe: Recipe) -> Dylib:
    """Return the dylib that a recipe stands for.

    Raises
    ------
    ObjectLoaderError, OSError, pickle.UnpicklingError
        As `_received.receive` raises them.
    """
    return _received.receive(recipe, lambda dylib: Session._of(dylib.session)._wrap(dylib))


def restore_loader(recipe: Recipe) -> ObjectLoader:
    """Return a loader into the dylib that a recipe stands for.

    Raises
    ------
    ObjectLoaderError, OSError, pickle.UnpicklingError
        As `_received.receive` raises them.
    """
    return ObjectLoader._of(restore_dylib(recipe))


def restore(value: Any) -> Any:
    """Return what a function of tvm-ffi's own class was pickled as."""
    return value.function if isinstance(value, _Plain) else value


def reduce_function(function: tvm_ffi.Function) -> Reduced:
    """Return what pickle makes a function of again.

    Raises
    ------
    TypeError
        If it cannot be sent; the message says why, and what to do.
    """
    owner = _native.owner_of(function)
    if owner is None:
        _refuse_function(function)
    dylib, name = owner
    return restore_function, (_received.send(dylib), name)


class _Plain:
    """A function whose class is tvm-ffi's own; copies of it are itself."""

    __slots__ = ("function",)

    def __init__(self, function: tvm_ffi.Function) -> None:
        self.function = function

    def __deepcopy__(self, memo: dict[int, Any]) -> _Plain:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        if _native.owner_of(self.function) is not None:
            return reduce_function(self.function)
        try:
            return self.function.__reduce__()
        except (RuntimeError, TypeError):
            _refuse_function(self.function)


def reduce_plain_function(function: tvm_ffi.Function) -> Reduced:
    """Return what pickle and copy make a function of tvm-ffi's own class of again."""
    return restore, (_Plain(function),)


def _refuse_function(function: tvm_ffi.Function) -> NoReturn:
    raise TypeError(
        "this tvm_ffi.Function cannot be pickled, since it is no function of an object that "
        "tvm_ffi_object_loader has loaded: make it in the receiving process, where "
        "tvm_ffi.get_global_func(name) and tvm_ffi.load_module(path) get those that have a name"
    ) from None


def reduce_module(module: tvm_ffi.Module, otherwise: Callable[[Any], Any]) -> Any:
    """Return what pickle makes a module of again.

    Parameters
    ----------
    module
        The module.
    otherwise
        What tvm-ffi itself does for those that were loaded in another way.

    Raises
    ------
    TypeError
        If it cannot be sent; the message says why, and what to do.
    """
    owner = _owner_of(module)
    if owner is not None:
        dylib, is_root = owner
        if module.imports and not (dylib.closed or dylib.embeds_modules()):
            raise TypeError(
                f"the module of dylib {dylib.name!r} cannot be pickled: others were imported into "
                "it with import_module; pickle these by themselves, and import them in the "
                "receiving process"
            )
        return restore_module, (_received.send(dylib), is_root)
    try:
        return otherwise(module)
    except (RuntimeError, TypeError):
        raise TypeError(
            f"a module of kind {module.kind!r} cannot be pickled, since tvm_ffi_object_loader has "
            "not loaded it from objects: send the path or the bytes that it is loaded from, and "
            "load these in the receiving process"
        ) from None


def reduce_dylib(dylib: Dylib) -> Reduced:
    """Return what pickle makes a dylib of again.

    Raises
    ------
    TypeError
        If it cannot be sent; the message says why, and what to do.
    """
    return restore_dylib, (_received.send(dylib._native),)


def reduce_loader(loader: ObjectLoader) -> Reduced:
    """Return what pickle makes a loader of again.

    Raises
    ------
    TypeError
        If it cannot be sent; the message says why, and what to do.
    """
    return restore_loader, (_received.send(loader.dylib._native),)


def _owner_of(module: tvm_ffi.Module) -> tuple[NativeDylib, bool] | None:
    """Return the dylib of a module, and whether the module is the root of all that it embeds."""
    dylib = _native.dylib_of(module.__chandle__())
    if dylib is not None:
        return dylib, _is_root(module, dylib)
    for imported in _tree(module):
        dylib = _native.dylib_of(imported.__chandle__())
        if dylib is not None and _is_root(module, dylib):
            return dylib, True
    return None


def _is_root(module: tvm_ffi.Module, dylib: NativeDylib) -> bool:
    try:
        return dylib.module().same_as(module)
    except SessionClosedError:
        return False


def _tree(root: tvm_ffi.Module) -> Iterator[tvm_ffi.Module]:
    """Yield a module and all that it imports, each once."""
    seen = set()
    modules = [root]
    while modules:
        module = modules.pop()
        if module.__chandle__() not in seen:
            seen.add(module.__chandle__())
            yield module
            modules.extend(module.imports)


def _is_of(module: tvm_ffi.Module, dylib: NativeDylib) -> bool:
    own = _native.dylib_of(module.__chandle__())
    return own is not None and own.id == dylib.id


def tokenize_function(function: tvm_ffi.Function) -> Any:
    """Return what tells a function from others in every process, as Dask asks for it."""
    owner = _native.owner_of(function)
    return _token("function", None if owner is None else owner[0], *(owner or ())[1:])


def tokenize_module(module: tvm_ffi.Module) -> Any:
    """Return what tells a module from others in every process, as Dask asks for it."""
    owner = _owner_of(module)
    return _token("module", None if owner is None else owner[0], *(owner or ())[1:])


def tokenize_dylib(dylib: Dylib) -> Any:
    """Return what tells a dylib from others in every process, as Dask asks for it."""
    return _token("dylib", dylib._native)


class _Unsendable:
    """What Dask's own way has no lasting token for."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __reduce__(self) -> NoReturn:
        raise TypeError(self.why)

    def __repr__(self) -> str:
        return f"<{self.why}>"


def _token(kind: str, dylib: NativeDylib | None, *more: object) -> Any:
    why = "it was not loaded from objects"
    if dylib is not None:
        try:
            return ("tvm_ffi_object_loader", kind, _received.digest(dylib).hex(), *more)
        except TypeError as error:
            why = str(error)
    from dask.base import normalize_token

    return normalize_token(_Unsendable(why))
