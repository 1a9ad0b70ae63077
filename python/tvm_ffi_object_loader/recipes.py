# SPDX-License-Identifier: Apache-2.0
"""Recipes: what it takes to make a dylib again in another process, as pickles hold it.

A recipe has a part for the dylib and for each one that it is linked against: what was loaded into
it, in order and with the contents, and its link order. A part's digest is the SHA-256 of all that,
those of its link order included; names are not in it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from pickle import PickleBuffer, UnpicklingError
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import ObjectLoaderError
from .keys import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from typing_extensions import Buffer, Self

    from ._native import Dylib as NativeDylib
    from ._native import Source

    # What messages call an input, or its path, and its content; a shared library has none.
    Input: TypeAlias = tuple[str, Buffer | None]
    Loads: TypeAlias = tuple[tuple[bool, tuple[Input, ...]], ...]  # with whole_archive
    LinkedTo: TypeAlias = tuple[bytes | str, ...]  # digests of dylibs, paths of shared libraries

# To be changed with what pickles hold.
FORMAT = 1

_MOST_DIGESTS = 4096

# Reentrant, and taken over a fork, as the lock of the sessions is.
_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)

# Those that a pickler holds: what it meets several times it writes once.
_recipes: weakref.WeakValueDictionary[int, Recipe] = weakref.WeakValueDictionary()
_parts: weakref.WeakValueDictionary[tuple[bytes, str], Part] = weakref.WeakValueDictionary()

# By a dylib's version, which no other state of any dylib has, and by those that it is linked to.
_digests: dict[tuple[int, LinkedTo], bytes] = {}


class _Shared:
    """What pickles hold once, however often it is met."""

    __slots__ = ("__weakref__",)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class Part(_Shared):
    """What one dylib was made of.

    Parameters
    ----------
    digest
        Of what follows, but for the names of objects and archives.
    name
        The dylib's.
    link_order, loads
        As `digest_of` takes them.
    """

    __slots__ = ("digest", "link_order", "loads", "name")

    def __init__(self, digest: bytes, name: str, link_order: LinkedTo, loads: Loads) -> None:
        self.digest = digest
        self.name = name
        self.link_order = link_order
        self.loads = loads

    @property
    def size(self) -> int:
        """The size of the contents in bytes."""
        contents = (content for _, inputs in self.loads for _, content in inputs)
        return sum(memoryview(content).nbytes for content in contents if content is not None)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Part | None], tuple[Any, ...]]:
        """Return what pickle makes the part of again."""
        loads: Any = self.loads
        if protocol >= 5:  # the contents may go another way than the rest
            loads = tuple((whole, tuple(map(_out_of_band, inputs))) for whole, inputs in loads)
        return read_part, (FORMAT, self.digest, self.name, self.link_order, loads)


def _out_of_band(given: tuple[str, Any]) -> tuple[str, Any]:
    name, content = given
    return name, content if content is None else PickleBuffer(content)


class Recipe(_Shared):
    """What a dylib, and those that it is linked against, were made of.

    Parameters
    ----------
    serial_number
        The dylib's, which tells it in its own process from another one that was made of the same.
    versions
        Those of the dylibs when the recipe was made.
    parts
        The dylibs', each after those in its link order.
    """

    __slots__ = ("parts", "serial_number", "versions")

    def __init__(self, serial_number: int, versions: list[int], parts: tuple[Part, ...]) -> None:
        self.serial_number = serial_number
        self.versions = versions
        self.parts = parts

    @property
    def digest(self) -> bytes:
        """The digest of the dylib itself."""
        return self.parts[-1].digest

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Recipe], tuple[Any, ...]]:
        """Return what pickle makes the recipe of again."""
        return read_recipe, (FORMAT, __version__, self.serial_number, self.parts)


def read_recipe(form: int, version: str, *rest: Any) -> Recipe:
    """Return a recipe that was pickled.

    Raises
    ------
    pickle.UnpicklingError
        If another release has pickled it in a format that this one does not read.
    """
    if form != FORMAT:
        raise UnpicklingError(
            f"tvm-ffi-object-loader {version} has pickled this, in format {form}; {__version__}, "
            f"which is installed here, reads format {FORMAT}: install one release on both sides"
        )
    serial_number, parts = rest
    return Recipe(serial_number, [], parts)


def read_part(form: int, *rest: Any) -> Part | None:
    """Return a part that was pickled; of a recipe that cannot be read there is none."""
    if form != FORMAT:
        return None
    digest, name, link_order, loads = rest
    contents = tuple((whole, tuple(map(_in_band, inputs))) for whole, inputs in loads)
    return Part(digest, name, link_order, contents)


def _in_band(given: tuple[str, Any]) -> Input:
    name, content = given
    if content is None or isinstance(content, bytes):
        return name, content
    return name, memoryview(content).cast("B")


def digest_of(link_order: LinkedTo, loads: Loads) -> bytes:
    """Return the SHA-256 digest of what a dylib was made of.

    Parameters
    ----------
    link_order
        Digests of dylibs, and paths of shared libraries.
    loads
        For each load whether it was one of whole archives, and its inputs: name and content, or
        path and `None` for a shared library.
    """
    hashed = [(whole, [_hashed(*given) for given in inputs]) for whole, inputs in loads]
    return hashlib.sha256(encode((FORMAT, link_order, hashed))).digest()


def _hashed(name: str, content: Buffer | None) -> bytes | str:
    return name if content is None else hashlib.sha256(content).digest()


def recipe_of(dylib: NativeDylib) -> Recipe:
    """Return the recipe of a dylib as it is now.

    Raises
    ------
    TypeError
        If there is none: the dylib is closed, or what it, or one that it is linked against, was
        loaded from is not to be had any more. The message says what to do.
    """
    serial_number = dylib.id
    with _lock:
        found = _recipes.get(serial_number)
    if found is not None and found.versions == dylib.versions() and not dylib.closed:
        return found
    described = dylib.recipe()
    if dylib.closed:
        _refuse(dylib.name, dylib.name, "it is closed: pickle it, and its functions, before that")
    parts: list[Part] = []
    for name, version, link_order, loads in described:
        linked = tuple(
            entry if isinstance(entry, str) else parts[entry].digest for entry in link_order
        )
        try:
            parts.append(_part_of(name, version, linked, loads))
        except _LostError as error:
            _refuse(dylib.name, name, str(error))
    recipe = Recipe(serial_number, [version for _, version, _, _ in described], tuple(parts))
    with _lock:
        _recipes[serial_number] = recipe
    return recipe


class _LostError(Exception):
    pass


def _refuse(dylib: str, part: str, why: str) -> NoReturn:
    if part != dylib:
        why = f"of dylib {part!r}, which it is linked against, {why}"
    raise TypeError(f"dylib {dylib!r} cannot be pickled: {why}") from None


def _part_of(name: str, version: int, linked: LinkedTo, loads: Any) -> Part:
    key = (version, linked)
    with _lock:
        digest = _digests.get(key)
        found = None if digest is None else _parts.get((digest, name))
    if found is not None:
        return found
    contents = tuple((whole, tuple(map(_read, given))) for whole, given in loads)
    if digest is None:
        digest = digest_of(linked, contents)
    with _lock:
        if version != 0:  # of all that have nothing loaded
            while len(_digests) >= _MOST_DIGESTS:
                del _digests[next(iter(_digests))]
            _digests[key] = digest
        return _parts.setdefault((digest, name), Part(digest, name, linked, contents))


def _read(source: Source) -> Input:
    """Return an input with what was read when it was loaded."""
    if source.is_library:
        return source.name, None
    try:
        return source.name, source.read()
    except OSError as error:
        raise _LostError(
            f"{source.name}: cannot be read any more ({error.strerror}): load it again; a session "
            "with picklable=True keeps what it has loaded"
        ) from None
    except ObjectLoaderError as error:
        raise _LostError(str(error)) from None
