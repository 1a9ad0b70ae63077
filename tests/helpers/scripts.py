# SPDX-License-Identifier: Apache-2.0
"""Scripts that start processes, in a session of their own, and what is left of those in the end."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path


class Script:
    """A script that runs, with every process that it starts.

    Parameters
    ----------
    source
        Its text.
    folder
        Where it is written to and runs.
    *arguments
        Its arguments.
    **environment
        Variables of its environment, beside those of this process.
    """

    def __init__(self, source: str, folder: Path, *arguments: str, **environment: str) -> None:
        (folder / "script.py").write_text(source)
        self.process = subprocess.Popen(
            [sys.executable, "script.py", *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # `line` reads no more than the line
            start_new_session=True,
        )
        self._others: list[int] = []

    def line(self) -> str:
        """Wait for the next line that it prints, and return it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def others(self) -> list[int]:
        """Return the processes that it has started, for which `output` is going to wait."""
        others = [pid for pid in self._pids() if pid != self.process.pid]
        for pid in others:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                self._others.append(os.pidfd_open(pid))
        return others

    def _pids(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def output(self) -> tuple[str, str]:
        """Wait until it has ended, with all that it has started; return what else it printed."""
        printed, errors = self.process.communicate(timeout=300)
        self.others()
        for other in self._others:
            assert select.select([other], [], [], 120)[0], "a process is left behind"
            os.close(other)
        assert not self._pids()
        return printed.decode(), errors.decode()
