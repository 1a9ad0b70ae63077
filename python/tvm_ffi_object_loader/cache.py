# SPDX-License-Identifier: Apache-2.0
"""ObjectCache: compiled objects on disk, each compiled once for all processes of a user.

What lies in the folder, and how processes share it, is in _cache_folder.py. A flight is the
compiling of one object; its right is a lock that the system takes back from a process that ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._cache_folder import CacheFolder, CorruptEntryError
from ._flight import Flight
from .errors import FrozenCacheError, ObjectLoaderError

_LONGEST_WAIT = 0.05  # seconds between two looks whether another has compiled

# For the counts of all caches. Taken over a fork, so that a child never finds it taken by a thread
# that it does not have.
_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class _Compiling(threading.local):
    """What this thread compiles, with its process: a fork copies it, but not the right to."""

    def __init__(self) -> None:
        self.flights: set[tuple[int, str]] = set()


_compiling = _Compiling()


@dataclasses.dataclass(frozen=True)
class CacheStats:
    """What an `ObjectCache` has done, and what its folder holds.

    All but `entries` and `bytes` count what one `ObjectCache` has done in this process.

    Attributes
    ----------
    hits : int
        Look-ups that found an object, also after waiting for another process or thread.
    misses : int
        Look-ups that found none.
    compiled : int
        Objects compiled.
    waits : int
        Look-ups that waited for another process or thread to compile.
    put_aside : int
        Corrupt entries that were put aside.
    evicted : int
        Entries removed to make room.
    not_stored : int
        Objects that were compiled, but could not be written into the folder.
    entries : int
        Objects in the folder.
    bytes : int
        The size of the folder's files, in bytes.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> cache = tol.ObjectCache("kernels")
    >>> cache.stats().as_dict()["compiled"]
    0
    """

    hits: int
    misses: int
    compiled: int
    waits: int
    put_aside: int
    evicted: int
    not_stored: int
    entries: int
    bytes: int

    def as_dict(self) -> dict[str, int]:
        """Return the figures by their names.

        Returns
        -------
        dict[str, int]
            All of them.
        """
        return dataclasses.asdict(self)


def _require_installed() -> None:
    try:
        import filelock
        import platformdirs
    except ImportError as error:
        raise ImportError(
            f"ObjectCache needs filelock and platformdirs ({error}): "
            "pip install 'tvm-ffi-object-loader[cache]'",
            name=error.name,
        ) from error
    del filelock, platformdirs


def _default_path() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("tvm-ffi-object-loader", appauthor=False) / "objects"


def _entry_name(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, not {type(key).__name__}: see object_key")
    if not key:
        raise ValueError("a key must not be empty: see object_key")
    # No character of a key gets into a path.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _object_bytes(data: object, what: str) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        hint = ": read the file" if isinstance(data, (str, os.PathLike)) else ""
        raise TypeError(f"{what} must be an object's bytes, not {type(data).__name__}{hint}")
    content = bytes(data)
    if not content:
        raise ValueError(f"{what} is empty, and no object")
    return content


class ObjectCache:
    """Compiled objects on disk, shared by all processes of a user.

    An object is found by its key, which `object_key` makes from all that it is made from. Of many
    processes and threads that need one at a time, one compiles it, and the others wait; where that
    one fails or is killed, another goes on. Entries appear whole or not at all, and are checked
    when they are read: a corrupt one counts as missing, and is put aside.

    Code from the cache is run, so the folder must be this user's (or root's), and others must not
    be able to write there; links in it are not followed.

    Parameters
    ----------
    path
        The folder, which is made if need be; if it is `None`, ``tvm-ffi-object-loader/objects`` in
        the user's folder for caches (``$XDG_CACHE_HOME``, or ``~/.cache``).
    max_bytes
        How many bytes the entries may have together. When one is written for which there is no
        room, the least recently read go, down to nine tenths. `None` sets no limit. Each process
        applies its own.
    frozen
        Whether to raise `FrozenCacheError` where an object would be compiled or written.

    Raises
    ------
    ImportError
        If filelock or platformdirs is not installed:
        ``pip install 'tvm-ffi-object-loader[cache]'``.
    OSError
        If the folder cannot be made, is a link, belongs to somebody else or can be written by
        others (`PermissionError`), or is missing while the cache is frozen (`FileNotFoundError`).
    TypeError, ValueError
        If an argument is of another type, or `max_bytes` is not positive.

    Notes
    -----
    On file systems of other hosts (NFS), what is promised holds as far as ``flock`` works there and
    a rename is atomic; where the server loses a lock, an object may be compiled twice. Where
    ``flock`` is missing, objects are found, but not written. An entry that the system had not yet
    written when it crashed is found corrupt. A thread that `compile` starts and waits for must not
    ask for the same key: each would wait for the other.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> cache = tol.ObjectCache("kernels", max_bytes=64 << 20)
    >>> key = tol.object_key("math_ops.cc", ["-O2"], "gcc 12.2")
    >>> data = cache.get_or_compile(key, lambda: pathlib.Path("math_ops.o").read_bytes())
    >>> tol.ObjectLoader().load(data)["simple_add"](1, 2)
    3
    >>> cache.get(key) == data
    True
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int | None = 1 << 30,
        frozen: bool = False,
    ) -> None:
        _require_installed()
        folder = os.fspath(_default_path() if path is None else path)
        if not isinstance(folder, str):
            raise TypeError(f"path must be a str or an os.PathLike of str, not {folder!r}")
        if max_bytes is not None:
            if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):
                raise TypeError(f"max_bytes must be an int or None, not {max_bytes!r}")
            if max_bytes <= 0:
                raise ValueError(f"max_bytes must be positive, or None, not {max_bytes}")
        if not isinstance(frozen, bool):
            raise TypeError(f"frozen must be True or False, not {frozen!r}")
        # Made absolute, since the process may change its folder.
        self._folder = CacheFolder(Path(folder).absolute(), create=not frozen)
        self._max_bytes = max_bytes
        self._frozen = frozen
        names = {field.name for field in dataclasses.fields(CacheStats)}
        self._counts = dict.fromkeys(names - {"entries", "bytes"}, 0)
        self._warned = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Give a copy, also in another process, the same folder and counts of its own."""
        make = functools.partial(type(self), max_bytes=self._max_bytes, frozen=self._frozen)
        return make, (self._folder.path,)

    def __repr__(self) -> str:
        """Show the folder, the limit, and whether the cache is frozen."""
        options = f"max_bytes={self._max_bytes}" + (", frozen=True" if self._frozen else "")
        return f"ObjectCache({str(self._folder.path)!r}, {options})"

    @property
    def path(self) -> Path:
        """The folder, as an absolute path."""
        return self._folder.path

    @property
    def max_bytes(self) -> int | None:
        """How many bytes the entries may have together; None is no limit."""
        return self._max_bytes

    @property
    def frozen(self) -> bool:
        """Whether nothing is compiled or written."""
        return self._frozen

    def _count(self, **events: int) -> None:
        with _lock:
            for name, number in events.items():
                self._counts[name] += number

    def _read(self, name: str) -> bytes | None:
        try:
            return self._folder.read(name)
        except CorruptEntryError:
            if not self._frozen:
                with contextlib.suppress(OSError):  # it counts as missing all the same
                    self._count(put_aside=self._folder.put_aside(name))
            return None

    def get(self, key: str) -> bytes | None:
        """Return the object with this key, if there is one.

        Parameters
        ----------
        key
            A `str` that is not empty, such as `object_key` returns.

        Returns
        -------
        bytes | None
            What was put, or None; a corrupt entry counts as missing.

        Raises
        ------
        OSError
            If the entry cannot be read.
        TypeError, ValueError
            If the key is of another type, or empty.
        """
        data = self._read(_entry_name(key))
        self._count(**{"misses" if data is None else "hits": 1})
        return data

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Keep an object under this key, in the place of the one that is there.

        Parameters
        ----------
        key
            A `str` that is not empty, such as `object_key` returns.
        data
            The object's bytes.

        Raises
        ------
        FrozenCacheError
            If the cache is frozen.
        OSError
            If it cannot be written, or is larger than `max_bytes`; what was there stays.
        TypeError, ValueError
            If an argument is of another type, or empty.
        """
        name = _entry_name(key)
        content = _object_bytes(data, "data")
        self._refuse_if_frozen("put an object into it")
        self._count(evicted=self._folder.write(name, content, self._max_bytes))

    def clear(self) -> None:
        """Remove all objects, also those that other processes have written.

        Raises
        ------
        FrozenCacheError
            If the cache is frozen.
        OSError
            If the folder cannot be written.
        """
        self._refuse_if_frozen("clear it")
        self._folder.clear()

    def _refuse_if_frozen(self, what: str) -> None:
        if self._frozen:
            raise FrozenCacheError(
                f"{self._folder.path}: the cache is frozen: to {what}, make one with frozen=False"
            )

    def get_or_compile(
        self, key: str, compile: Callable[[], bytes | bytearray | memoryview]
    ) -> bytes:
        """Return the object with this key, which is compiled if it is missing.

        One process and thread at a time compiles it; what it raises is raised here, and the next
        one tries. `compile` may ask the cache for other keys. If the object cannot be written, a
        `RuntimeWarning` says why, once a cache, and the object is returned all the same.

        Parameters
        ----------
        key
            A `str` that is not empty, such as `object_key` returns.
        compile
            Called without arguments where the object is missing; returns its bytes.

        Returns
        -------
        bytes
            The object, as `Session.load` takes it.

        Raises
        ------
        FrozenCacheError
            If the object is missing and the cache is frozen.
        ObjectLoaderError
            If `compile` asks for its own key.
        OSError
            If the entry cannot be read.
        TypeError, ValueError
            If an argument, or what `compile` returns, is of another type, or empty.
        """
        name = _entry_name(key)
        if not callable(compile):
            raise TypeError(f"compile must be callable, not {type(compile).__name__}")
        if (data := self._read(name)) is not None:
            self._count(hits=1)
            return data
        if self._frozen:
            self._count(misses=1)
            raise FrozenCacheError(
                f"{self._folder.path}: the cache is frozen, and has no object with the key "
                f"{key!r}: compile it with frozen=False first"
            )
        here = (os.getpid(), f"{self._folder.path}/{name}")
        if here in _compiling.flights:
            raise ObjectLoaderError(
                f"compile asks for the object that it is to compile, with the key {key!r}: "
                "give the two different keys"
            )
        flight, data = self._take_off(name)
        _compiling.flights.add(here)
        try:
            # Another may have compiled it between the look and the lock.
            if data is None and flight is not None:
                data = self._read(name)
            if data is not None:
                self._count(hits=1)
                return data
            self._count(misses=1)
            data = _object_bytes(compile(), "what compile returns")
            self._count(compiled=1)
            self._store(name, data)
            return data
        finally:
            _compiling.flights.discard(here)
            if flight is not None:
                flight.end()

    def _take_off(self, name: str) -> tuple[Flight | None, bytes | None]:
        """Wait for the right to compile, or for the object that another has compiled.

        Both are None where the folder cannot be written: then each compiles for itself.
        """
        try:
            flight = self._folder.flight(name)
            delay = 0.001
            while not flight.begin():
                self._count(waits=delay == 0.001)
                time.sleep(delay)
                delay = min(2 * delay, _LONGEST_WAIT)
                if (data := self._read(name)) is not None:
                    return None, data
        except OSError:
            return None, None
        return flight, None

    def _store(self, name: str, data: bytes) -> None:
        try:
            self._count(evicted=self._folder.write(name, data, self._max_bytes))
        except OSError as error:
            self._count(not_stored=1)
            if not self._warned:
                self._warned = True
                message = f"{self._folder.path}: an object was compiled, but not kept: {error}"
                warnings.warn(message, RuntimeWarning, stacklevel=3)

    def stats(self) -> CacheStats:
        """Return what was done here, and what the folder holds.

        Returns
        -------
        CacheStats
            Figures of this moment; the folder's are counted anew each time.

        Raises
        ------
        OSError
            If the folder cannot be read.
        """
        entries, size = self._folder.count()
        with _lock:
            return CacheStats(**self._counts, entries=entries, bytes=size)
