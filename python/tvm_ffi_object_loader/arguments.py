# SPDX-License-Identifier: Apache-2.0
"""What the public methods take, checked and in the forms that the native module takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _native
from .errors import ObjectFormatError

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

    from .dylib import Dylib
    from .loader import ObjectLoader

    PathLike: TypeAlias = str | os.PathLike[str] | os.PathLike[bytes]
    ObjectLike: TypeAlias = PathLike | Buffer
    Objects: TypeAlias = ObjectLike | Iterable[ObjectLike]
    Input: TypeAlias = str | Buffer | tuple[str, Buffer]
    LinkOrder: TypeAlias = Iterable["Dylib | ObjectLoader | PathLike"]


def require_name(what: str, value: object) -> None:
    """Raise a `TypeError` that says what is wrong with an argument, unless it is a `str`."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}: {value!r}")


def require_bool(what: str, value: object) -> None:
    """Raise a `TypeError` that says what is wrong with an argument, unless it is a `bool`."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be True or False, not {type(value).__name__}: {value!r}")


def wants_debug(debug: bool | None) -> bool:
    """Return whether debuggers are to see what a session loads.

    Raises
    ------
    TypeError
        If `debug` is no `bool`, nor `None`.
    ValueError
        If the environment variable says neither yes nor no.
    """
    return _wants("debug", debug, "TVM_FFI_OBJECT_LOADER_DEBUG")


def _wants(what: str, given: bool | None, variable: str) -> bool:
    if given is not None:
        require_bool(what, given)
        return given
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{variable} must be 1 or 0, not {value!r}")
    return value == "1"


def wants_picklable(picklable: bool | None) -> bool:
    """Return whether a session is to keep the contents of what it loads.

    Raises
    ------
    TypeError
        If `picklable` is no `bool`, nor `None`.
    ValueError
        If the environment variable says neither yes nor no.
    """
    return _wants("picklable", picklable, "TVM_FFI_OBJECT_LOADER_PICKLABLE")


def wants_profile(profile: str | None) -> bool:
    """Return whether perf is to know what a session loads.

    Raises
    ------
    ValueError
        If there is no such kind of profile.
    """
    what = "profile"
    if profile is None:
        what = "TVM_FFI_OBJECT_LOADER_PROFILE"
        profile = os.environ.get(what) or None
    if profile not in (None, "perf"):
        raise ValueError(f"{what} must be 'perf', not {profile!r}")
    return profile is not None


def check_timeout(timeout: float | None) -> float | None:
    """Return a timeout in seconds, or `None`.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is negative, or not a number in the other sense.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must not be negative: {timeout!r}")
    return float(min(timeout, 1e9))  # a number of any size, as Python's own can be


def normalize_objects(objects: Objects) -> list[Input]:
    """Turn every accepted form of ``objects`` into the one that the native module takes.

    Parameters
    ----------
    objects
        A path (`str` or `os.PathLike`), a bytes-like object, or an iterable mixing them.

    Returns
    -------
    list
        Paths as `str` and contents as contiguous bytes-like objects, in the order given. In the
        place of a ``.tar`` are the files in it, with names for messages.

    Raises
    ------
    ObjectFormatError
        If a ``.tar`` is damaged, or has no files in it.
    OSError
        If one cannot be read.
    TypeError
        If ``objects``, or an element of it, is neither a path nor bytes-like. The message names
        the type and, for an element, its position.
    ValueError
        If the iterable is empty, or a path holds a null character.
    """
    return open_tars(list_objects(objects))


def list_objects(objects: Objects) -> list[str | Buffer]:
    """Do as `normalize_objects`, but leave each ``.tar`` as it is.

    Raises
    ------
    TypeError
        If ``objects``, or an element of it, is neither a path nor bytes-like.
    ValueError
        If the iterable is empty, or a path holds a null character.
    """
    single = _normalize_object(objects)
    if single is not None:
        return [single]
    if not isinstance(objects, Iterable) or isinstance(objects, Mapping):
        raise TypeError(
            "objects must be a path, a bytes-like object or an iterable of these, "
            f"not {type(objects).__name__}"
        )
    listed: list[str | Buffer] = []
    for position, element in enumerate(objects):
        item = _normalize_object(element)
        if item is None:
            raise TypeError(
                f"objects[{position}] must be a path or a bytes-like object, "
                f"not {type(element).__name__}"
            )
        listed.append(item)
    if not listed:
        raise ValueError("objects has no elements: there is nothing to load")
    return listed


def open_tars(objects: Iterable[str | Buffer]) -> list[Input]:
    """Put the files in each ``.tar`` in its place.

    Raises
    ------
    ObjectFormatError
        If a ``.tar`` is damaged, or has no files in it.
    OSError
        If one cannot be read.
    """
    return [member for item in objects for member in _members(item)]


def _members(item: str | Buffer) -> list[Input]:
    """Return an item, or the files in it if it is the path of a ``.tar``, as TVM exports them."""
    if not isinstance(item, str) or not item.endswith(".tar"):
        return [item]
    import tarfile  # few need it, and it takes long

    try:
        with tarfile.open(item) as tar:
            files = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
            contents: list[Input] = [
                (f"{item}({name})", file.read()) for name, file in files if file is not None
            ]
    except (tarfile.TarError, EOFError) as error:
        raise ObjectFormatError(f"{item}: cannot be read as a tar archive: {error}") from error
    if not contents:
        raise ObjectFormatError(f"{item}: there are no files in this tar archive")
    return contents


def normalize_path(path: PathLike) -> str:
    """Turn a path into the form that the native module takes.

    Parameters
    ----------
    path
        A path (`str` or `os.PathLike`).

    Returns
    -------
    str
        The path.

    Raises
    ------
    ValueError
        If it holds a null character.
    """
    if not isinstance(path, str):
        path = os.fsdecode(path)
    if "\0" in path:
        raise ValueError(f"embedded null character in path {path!r}")
    return path


def _normalize_object(candidate: Any) -> str | Buffer | None:
    if isinstance(candidate, (str, os.PathLike)):
        return normalize_path(candidate)
    try:
        view = memoryview(candidate)
    except TypeError:
        return None
    return view if view.c_contiguous else view.tobytes()


def normalize_link_order(link_order: LinkOrder) -> list[_native.Dylib | str]:
    """Turn a link order into the one that the native module takes.

    Parameters
    ----------
    link_order
        An iterable of dylibs, loaders and paths of shared libraries.

    Returns
    -------
    list
        Native dylibs, and paths as `str`, in the order given.

    Raises
    ------
    TypeError
        If it, or an element of it, is of another type. The message names the position.
    ValueError
        If a path holds a null character.
    """
    if link_order == ():
        return []
    if not isinstance(link_order, Iterable) or isinstance(link_order, (str, bytes, Mapping)):
        raise TypeError(
            "link_order must be an iterable of Dylib objects and paths, "
            f"not {type(link_order).__name__}"
        )
    entries: list[_native.Dylib | str] = []
    for position, entry in enumerate(link_order):
        if isinstance(entry, (str, os.PathLike)):
            entries.append(normalize_path(entry))
            continue
        # A loader stands for its dylib.
        native = getattr(getattr(entry, "dylib", entry), "_native", None)
        if not isinstance(native, _native.Dylib):
            raise TypeError(
                f"link_order[{position}] must be a Dylib, an ObjectLoader or the path of a shared "
                f"library, not {type(entry).__name__}"
            )
        entries.append(native)
    return entries


def normalize_names(what: str, names: bool | Iterable[str]) -> bool | list[str]:
    """Check names, or a `bool` that stands for all of them or none.

    Parameters
    ----------
    what
        The argument's name, for the message.
    names
        A `bool`, or an iterable of names.

    Returns
    -------
    bool or list
        The `bool`, or the names.

    Raises
    ------
    TypeError
        If it is neither, or an element is no `str`.
    """
    if isinstance(names, bool):
        return names
    if isinstance(names, (str, bytes, Mapping)) or not isinstance(names, Iterable):
        raise TypeError(
            f"{what} must be a bool or an iterable of names, not {type(names).__name__}: {names!r}"
        )
    listed = list(names)
    for position, name in enumerate(listed):
        require_name(f"{what}[{position}]", name)
    return listed


def normalize_libraries(libraries: Iterable[PathLike]) -> tuple[str, ...]:
    """Turn paths of shared libraries into the form that the native module takes.

    Parameters
    ----------
    libraries
        An iterable of paths.

    Returns
    -------
    tuple
        The paths, in the order given.

    Raises
    ------
    TypeError
        If it is one path, or an element is not a path. The message names the position.
    ValueError
        If a path holds a null character.
    """
    if not isinstance(libraries, Iterable) or isinstance(libraries, (str, bytes, Mapping)):
        raise TypeError(
            f"libraries must be an iterable of paths, not {type(libraries).__name__}: {libraries!r}"
        )
    paths = []
    for position, path in enumerate(libraries):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(
                f"libraries[{position}] must be the path of a shared library, "
                f"not {type(path).__name__}"
            )
        paths.append(normalize_path(path))
    return tuple(paths)
