# SPDX-License-Identifier: Apache-2.0
"""What is in a file: the file itself, the members of an archive, the files in a ``.tar``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ._elf import MalformedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_AR, _THIN_AR = b"!<arch>\n", b"!<thin>\n"


class Content:
    """Bytes, or a part of a file of which only what is asked for is read.

    A file that becomes shorter meanwhile is malformed, and no signal, as it would be if it were
    mapped.
    """

    def __init__(self, name: str, source: memoryview | int, offset: int, size: int) -> None:
        self.name = name
        self._source = source
        self._offset = offset
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        """Return a range, all of which has to be there."""
        if offset + size > self.size:
            raise MalformedError(
                f"is truncated: something is at {offset} to {offset + size}, "
                f"and the file ends at {self.size}"
            )
        start = self._offset + offset
        if isinstance(self._source, memoryview):
            return bytes(self._source[start : start + size])
        parts = []
        while size > 0:
            part = os.pread(self._source, min(size, 1 << 30), start)
            if not part:
                raise MalformedError("has become shorter while it was read")
            parts.append(part)
            start += len(part)
            size -= len(part)
        return b"".join(parts)

    def part(self, name: str, offset: int, size: int) -> Content:
        """Return a part, all of which has to be there."""
        if offset + size > self.size:
            raise MalformedError(f"is truncated: {name} reaches past the end of the file")
        return Content(name, self._source, self._offset + offset, size)

    @property
    def is_archive(self) -> bool:
        """Whether it is an ar archive."""
        return self.size >= 8 and self.read(0, 8) in (_AR, _THIN_AR)

    @property
    def is_thin(self) -> bool:
        """Whether it is an archive whose members are files of their own."""
        return self.size >= 8 and self.read(0, 8) == _THIN_AR


def of_bytes(data: Buffer, name: str = "<bytes>") -> Content:
    """Return the content of a buffer."""
    view = memoryview(data).cast("B")
    return Content(name, view, 0, view.nbytes)


class OpenFile:
    """A file, open until the end of a ``with`` block.

    Raises
    ------
    OSError
        If it cannot be opened.
    MalformedError
        If it is not a regular file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> Content:
        """Open the file."""
        # A pipe that nobody writes into is not waited for.
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._file)
        if stat.S_ISDIR(status.st_mode):
            self.__exit__()
            raise IsADirectoryError(21, os.strerror(21), self._path)
        if not stat.S_ISREG(status.st_mode):
            self.__exit__()
            raise MalformedError("is not a regular file")
        return Content(self._path, self._file, 0, status.st_size)

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        os.close(self._file)


def archive_members(archive: Content) -> Iterator[tuple[str, Content | Path]]:
    """Yield the names of an archive's members, and what they are; of a thin one, their paths.

    Raises
    ------
    MalformedError
        If the archive is damaged.
    """
    folder = Path(archive.name).parent
    names = b""
    position = 8
    while position + 60 <= archive.size:
        header = archive.read(position, 60)
        position += 60
        if header[58:] != b"`\n":
            raise MalformedError(f"is a damaged archive: there is no member at {position - 60}")
        try:
            size = int(header[48:58].decode("ascii"))
        except ValueError:
            raise MalformedError("is a damaged archive: a member's size is no number") from None
        if size < 0:
            raise MalformedError("is a damaged archive: a member's size is negative")
        field = header[:16].rstrip(b" ")
        is_table = field in (b"/", b"/SYM64/", b"//")
        is_elsewhere = archive.is_thin and not is_table
        here = position
        position += 0 if is_elsewhere else size + size % 2
        if field == b"//":
            names = archive.read(here, size)
            continue
        if is_table:
            continue
        if field.startswith(b"#1/") and field[3:].isdigit():  # BSD: the name comes before
            length = int(field[3:])
            name = archive.read(here, length).rstrip(b"\0")
            here, size = here + length, size - length
            if name.startswith(b"__.SYMDEF"):
                continue
            if size < 0:
                raise MalformedError("is a damaged archive: a member is shorter than its name")
        elif field.startswith(b"/") and field[1:].isdigit():
            rest = names[int(field[1:]) :]
            name = rest[: rest.find(b"\n")].removesuffix(b"/")
        else:
            name = field.removesuffix(b"/")
        text = name.decode("utf-8", "surrogateescape")
        full = f"{archive.name}({text})"
        yield full, folder / text if is_elsewhere else archive.part(full, here, size)
