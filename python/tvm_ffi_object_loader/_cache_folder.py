# SPDX-License-Identifier: Apache-2.0
"""The folder of an `ObjectCache`: what lies in it, and how processes share it.

::

    objects/NAME.o   an entry: the object, then its digest and a mark (see _sealed)
    aside/NAME.o     an entry that was found corrupt, the last one of its name
    writing/NAME.o   what is being written
    flights/NAME     locked by the process that compiles, and removed by it
    lock             held while anything in the folder is changed
    state            the generation, and the bytes of all entries

Whoever changes something holds ``lock``, so what lies in ``writing/`` was left by a process that
was killed, and the bytes that ``state`` tells are exact: they are marked unknown before the first
change, and counted anew by the next that finds them so. Readers take no lock: entries appear whole,
by a rename, and their digest is checked.

When an entry was last read is kept as the generation, which each write advances, in its time of
modification (in seconds), and the clock, in its time of access, decides among those read in one
generation. So neither a clock that jumps nor two hosts whose clocks differ confuses the order by
more than that, and how the file system is mounted does not matter.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ._flight import Flight

_MARK = b"tolobj1\n"
_DIGEST_BYTES = 32
_SEAL_BYTES = _DIGEST_BYTES + len(_MARK)
_NAME = re.compile(r"[0-9a-f]{64}(\.o)?")
_FOLDERS = ("objects", "aside", "writing", "flights")
_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_UNKNOWN = -1
_NO_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO is opened at once, and refused


class CorruptEntryError(Exception):
    """An entry that is not what was written under its name, or that somebody else may have made."""


class _Entry(NamedTuple):
    rank: tuple[int, int, int]  # the lowest is evicted first
    path: Path
    size: int


class _State(NamedTuple):
    generation: int
    size: int  # bytes of all entries; _UNKNOWN while they are being changed


def _is_trusted(found: os.stat_result) -> bool:
    # Root's are trusted: a system's image may come with a cache.
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & _OTHERS_CAN_WRITE


def _check_folder(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        reason = "there is no object cache here: one that is not frozen makes it"
        raise FileNotFoundError(errno.ENOENT, reason, path) from None
    if stat.S_ISLNK(found.st_mode):
        reason = f"is a link, which is not followed: pass the folder, {path.resolve()}"
        raise OSError(errno.ELOOP, f"the object cache's folder {reason}", path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "the object cache's folder is no folder", path)
    if found.st_uid not in (os.geteuid(), 0):
        reason = f"belongs to the user {found.st_uid}, who could put any code there: pass your own"
        raise PermissionError(errno.EPERM, f"the object cache's folder {reason}", path)
    if found.st_mode & _OTHERS_CAN_WRITE:
        reason = "can be written by others, who could put any code there: chmod go-w, and clear it"
        raise PermissionError(errno.EPERM, f"the object cache's folder {reason}", path)


def _digest(name: str, data: bytes) -> bytes:
    # With the name, so that an entry under another's name is none.
    digest = hashlib.sha256(name.encode())
    digest.update(data)
    return digest.digest()


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the cache's own files in a folder, those that vanish meanwhile left out.

    Others are never touched: the user may have passed a folder with files of another purpose.
    """
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(FileNotFoundError):
                if _NAME.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


class CacheFolder:
    """Entries by name, each a digest in hexadecimal, in a folder that processes share.

    Every method may raise what the file system does, an `OSError`.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        if create:
            try:
                # A parent that is made, such as ~/.cache, has the usual permissions.
                path.parent.mkdir(parents=True, exist_ok=True)
                self._make()
            except OSError as error:
                # A folder that cannot be written can still be read.
                if error.errno not in _NOT_WRITABLE or not path.exists():
                    raise
        self._check()

    def _make(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(0o700)
        # Nothing is made where others might have a hand in it.
        self._check()
        for folder in _FOLDERS:
            with contextlib.suppress(FileExistsError):
                (self.path / folder).mkdir(0o700)

    def _check(self) -> None:
        """Raise an `OSError` that tells why, unless only this user (and root) can write here."""
        _check_folder(self.path)
        for folder in _FOLDERS:
            with contextlib.suppress(FileNotFoundError):
                _check_folder(self.path / folder)

    def _entry_path(self, name: str) -> Path:
        return self.path / "objects" / f"{name}.o"

    def flight(self, name: str) -> Flight:
        """Return the right to compile the entry, which is yet to be taken."""
        self._make()  # somebody may have removed the folder
        return Flight(self.path / "flights" / name)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        from filelock import UnixFileLock

        self._make()
        lock = UnixFileLock(self.path / "lock", mode=0o600, fallback_to_soft=False)
        lock.acquire(poll_interval=0.005)
        try:
            yield
        finally:
            lock.release()

    def read(self, name: str) -> bytes | None:
        """Return what was written under the name, or None; note that it was read.

        Raises
        ------
        CorruptEntryError
            If it is no longer what was written, or not this user's.
        OSError
            If the file cannot be read.
        """
        try:
            fd = os.open(self._entry_path(name), os.O_RDONLY | _NO_FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CorruptEntryError("it is a link") from None
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or not _is_trusted(found):
                raise CorruptEntryError("it is no file of this user's alone")
            with open(fd, "rb", closefd=False) as file:
                content = file.read()
            data, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
            if seal != _digest(name, data) + _MARK:
                raise CorruptEntryError("its digest is another")
            with contextlib.suppress(OSError):  # of a file system that cannot be written
                self._stamp(fd, self._state().generation or int(found.st_mtime))
        except OSError as error:
            if error.errno == errno.ESTALE:  # another host has removed it
                return None
            raise
        finally:
            os.close(fd)
        return data

    @staticmethod
    def _stamp(file: int | Path, generation: int) -> None:
        os.utime(file, ns=(time.time_ns(), generation * 10**9))

    def _state(self) -> _State:
        try:
            fd = os.open(self.path / "state", os.O_RDONLY | _NO_FLAGS)
        except OSError:
            return _State(0, _UNKNOWN)
        try:
            generation, size = map(int, os.read(fd, 64).split())
        except (OSError, ValueError):
            return _State(0, _UNKNOWN)
        finally:
            os.close(fd)
        return _State(generation, size) if 0 < generation < 2**33 else _State(0, _UNKNOWN)

    def _set_state(self, state: _State) -> None:
        # In place and always as long, so that it can be written where the disk is full.
        fd = os.open(self.path / "state", os.O_WRONLY | os.O_CREAT | _NO_FLAGS, 0o600)
        try:
            os.pwrite(fd, b"%020d %020d\n" % state, 0)
        finally:
            os.close(fd)

    def _entries(self, generation: int) -> list[_Entry]:
        """Return all entries, those put aside among them, and set wrong times right."""
        entries = [
            _Entry((0, 0, 0), path, found.st_size) for path, found in _files(self.path / "aside")
        ]
        for path, found in _files(self.path / "objects"):
            rank = (1, int(found.st_mtime), found.st_atime_ns)
            if rank[1] > generation:
                # Copied, or touched: older than what was read since.
                rank = (1, generation, 0)
                with contextlib.suppress(OSError):
                    os.utime(path, ns=(0, generation * 10**9), follow_symlinks=False)
            entries.append(_Entry(rank, path, found.st_size))
        return entries

    def _remove_leftovers(self) -> None:
        for path, _ in _files(self.path / "writing"):
            path.unlink(missing_ok=True)
        for path, _ in _files(self.path / "flights"):
            flight = Flight(path)
            if flight.begin():
                flight.end()

    def _counted(self) -> _State:
        """Return the state; where it is unknown, count, and remove what killed processes left."""
        state = self._state()
        if state.size >= 0:
            return state
        self._remove_leftovers()
        generation = state.generation
        if generation == 0:
            times = (int(found.st_mtime) for _, found in _files(self.path / "objects"))
            generation = min(max(times, default=0), 2**31) + 1
        size = sum(entry.size for entry in self._entries(generation))
        return _State(generation, size)

    def _evict(self, state: _State, kept: Path | None, most: int) -> tuple[_State, int]:
        """Remove entries until they have at most so many bytes; return how many were removed."""
        entries = self._entries(state.generation)
        size = sum(entry.size for entry in entries)
        removed = 0
        for entry in sorted(entries):
            if size <= most:
                break
            if entry.path != kept:
                entry.path.unlink(missing_ok=True)
                size -= entry.size
                removed += entry.rank[0]
        return _State(state.generation, size), removed

    def write(self, name: str, data: bytes, max_bytes: int | None) -> int:
        """Write an entry, for which others are evicted; return how many."""
        size = len(data) + _SEAL_BYTES
        path, aside = self._entry_path(name), self.path / "writing" / f"{name}.o"
        if max_bytes is not None and size > max_bytes:
            reason = f"the object has {size} bytes with its digest, more than max_bytes={max_bytes}"
            raise OSError(errno.EFBIG, reason, path)
        with self._changing():
            state = self._counted()
            replaced = 0
            with contextlib.suppress(FileNotFoundError):
                replaced = path.lstat().st_size
            self._set_state(_State(state.generation, _UNKNOWN))
            evicted = 0
            if max_bytes is not None and state.size - replaced + size > max_bytes:
                # A tenth more, so that the next ones need not look through all entries.
                most = max(max_bytes - max_bytes // 10 - size, 0) + replaced
                state, evicted = self._evict(state, path, most)
            try:
                self._write_aside(aside, data, _digest(name, data) + _MARK)
                self._stamp(aside, state.generation + 1)
                aside.replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    aside.unlink(missing_ok=True)
                    self._set_state(state)
                raise
            self._set_state(_State(state.generation + 1, state.size - replaced + size))
        return evicted

    @staticmethod
    def _write_aside(path: Path, data: bytes, seal: bytes) -> None:
        # What a crash of the system leaves half written its digest tells: there is no fsync.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FLAGS
        fd = os.open(path, flags, 0o600)
        try:
            for content in (data, seal):
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)

    def put_aside(self, name: str) -> bool:
        """Take an entry out that still is corrupt; return whether it was."""
        with self._changing():
            try:
                self.read(name)
            except CorruptEntryError:
                self._set_state(_State(self._state().generation, _UNKNOWN))
                self._entry_path(name).replace(self.path / "aside" / f"{name}.o")
                return True
        return False

    def clear(self) -> None:
        """Remove all entries, and those put aside."""
        with self._changing():
            state = _State(self._counted().generation, _UNKNOWN)
            self._set_state(state)
            self._remove_leftovers()
            self._set_state(self._evict(state, None, -1)[0])

    def count(self) -> tuple[int, int]:
        """Return how many entries there are, and their bytes with those of what was put aside."""
        entries, aside = (
            [found.st_size for _, found in _files(self.path / folder)]
            for folder in ("objects", "aside")
        )
        return len(entries), sum(entries) + sum(aside)
