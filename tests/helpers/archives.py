# SPDX-License-Identifier: Apache-2.0
"""Archives of files."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MakeArchive = Callable[..., Path]


@pytest.fixture
def make_archive(tmp_path: Path) -> MakeArchive:
    """Make an archive of files, which are its members under the names given."""
    numbers = itertools.count()

    def make(
        *paths: Path,
        options: str = "rc",
        name: str = "libtest.a",
        ar: str | None = "ar",
        **named: Path,
    ) -> Path:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        members = [*paths]
        for member, path in named.items():
            members.append(Path(shutil.copy(path, folder / f"{member}.o")))
        assert ar is not None
        arguments = [str(m.relative_to(folder) if m.parent == folder else m) for m in members]
        subprocess.run([*ar.split(), options, name, *arguments], cwd=folder, check=True)
        return folder / name

    return make
