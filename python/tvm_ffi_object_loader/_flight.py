# SPDX-License-Identifier: Apache-2.0
"""Flight: the right to compile one object, which one thread of all processes has at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Flight:
    """The lock on a file, which the system takes back from a process that ends, however it ends.

    Making one takes nothing; `begin` does. A file that a killed process has left means nothing.
    """

    def __init__(self, path: Path) -> None:
        from filelock import UnixFileLock

        self._path = path
        # A lock that is a file's mere existence would outlive a process that is killed.
        self._lock = UnixFileLock(path, mode=0o600, fallback_to_soft=False)
        self._process = os.getpid()

    def begin(self) -> bool:
        """Return whether the right was to be had.

        Raises
        ------
        OSError
            If the file cannot be made or locked.
        """
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def end(self) -> None:
        """Give the right back; in a forked process, which never had it, do nothing."""
        if os.getpid() != self._process:
            return
        # Who gets the lock of a file that has lost its name tries again, with a new one.
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._lock.release()
