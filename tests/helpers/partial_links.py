# SPDX-License-Identifier: Apache-2.0
"""Objects that one of the linkers links to one object (``-r``)."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compilation import CLANG

PARTIAL = {
    "GNU ld": "ld.bfd",
    "gold": "ld.gold",
    "lld": "ld.lld",
    "mold": "mold",
}
LLD = shutil.which("ld.lld") or (
    shutil.which(f"ld.lld{Path(CLANG.cc).name.removeprefix('clang')}") if CLANG else None
)


def partial_linker(name: str) -> str:
    """Return the path of a linker, or skip the test."""
    path = LLD if name == "lld" else shutil.which(PARTIAL[name])
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


Merge = Callable[..., Path]


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    """Link objects to one with ``-r``."""
    numbers = itertools.count()

    def merged(linker: str, *objects: Path, flags: tuple[str, ...] = ()) -> Path:
        path = tmp_path / f"merged-{next(numbers)}.o"
        command = [partial_linker(linker), "-r", *flags, *map(str, objects), "-o", str(path)]
        if subprocess.run(command, capture_output=linker == "mold", check=False).returncode:
            assert linker == "mold"
            pytest.skip("mold does not link these")
        return path

    return merged
