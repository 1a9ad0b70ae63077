# SPDX-License-Identifier: Apache-2.0
"""What packages have of Python's files, laid out as conda's are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PYTHON = ".".join(map(str, sys.version_info[:2]))
LIBRARY = f"lib/python{PYTHON}"
SITE_PACKAGES = f"{LIBRARY}/site-packages"
LEFT_OUT = ("__pycache__", "site-packages", "test", "idlelib", "ensurepip", "config-*", "_test*.so")


def add_interpreter(source: Path, root: Path) -> None:
    """Copy the interpreter of the prefix `source`; it finds its libraries beside itself."""
    (root / "bin").mkdir()
    interpreter = shutil.copy(source / f"bin/python{PYTHON}", root / "bin")
    subprocess.run(["patchelf", "--set-rpath", "$ORIGIN/../lib", interpreter], check=True)
    for name in ("python", "python3"):
        (root / "bin" / name).symlink_to(f"python{PYTHON}")


def copy_standard_library(folder: Path, *, without: Iterable[str] = ()) -> None:
    """Copy this machine's, but what building and testing a package never needs."""
    shutil.copytree(
        Path(sys.base_prefix) / LIBRARY,
        folder,
        symlinks=True,
        ignore=shutil.ignore_patterns(*LEFT_OUT, *without),
    )
    (folder / "site-packages").mkdir()
    (folder / "site-packages/README.txt").write_text("packages are installed here\n")
