# SPDX-License-Identifier: Apache-2.0
"""Where libraries are installed: in the process, Python's environment, and the system.

Nothing is imported, run or opened by the dynamic linker for it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ._contents import Content, OpenFile
from ._elf import SHN_UNDEF, ElfFile, MalformedError

# Folders below an entry of sys.path in which packages keep libraries.
_IN_PACKAGES = (
    "nvidia_cutlass_dsl/lib",
    "nvidia_cutlass_dsl/*/lib",
    "nvidia/*/lib",
    "torch/lib",
    "tvm/lib",
    "tvm",
)
# Folders below the root of an installation.
_BELOW_ROOT = (
    f"lib/{platform.machine()}-linux-gnu",
    "lib64",
    "lib",
    f"targets/{platform.machine()}-linux/lib",
    "lib/gcc/*/*",
    "lib/llvm-*/lib",
    "lib/llvm-*/lib/clang/*/lib/*",
    "lib/clang/*/lib/*",
)
_ROOTS_IN_ENVIRONMENT = ("CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH")
_FOLDERS_IN_ENVIRONMENT = ("LD_LIBRARY_PATH", "CUTE_DSL_LIBS")


def find_files(patterns: Iterable[str]) -> list[str]:
    """Return the files whose names match, each once, in the order of places and patterns.

    Parameters
    ----------
    patterns
        Patterns of file names, as of `fnmatch`, the best first.

    Returns
    -------
    list[str]
        Paths. What the process has loaded comes first, as it is the copy in use.
    """
    wanted = tuple(patterns)
    found: dict[str, str] = {}  # by what the path leads to
    for path in (*_loaded(wanted), *_installed(wanted)):
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def defined_symbols(path: str, names: set[str]) -> set[str]:
    """Return those of the symbols that a shared library or an archive defines.

    Parameters
    ----------
    path
        The file.
    names
        Symbols.

    Returns
    -------
    set[str]
        Some of `names`; none if the file cannot be read.
    """
    try:
        with OpenFile(path) as content:
            if content.is_archive:
                return _in_index(content, names)
            symbols = ElfFile(content).dynamic_symbols
    except (OSError, MalformedError):
        return set()
    return names & {symbol.name for symbol in symbols if symbol.section != SHN_UNDEF}


def _in_index(archive: Content, names: set[str]) -> set[str]:
    """Return those of the names that the archive's index of symbols has."""
    header = archive.read(8, 60)
    if header[:16].rstrip() not in (b"/", b"/SYM64/") or not header[48:58].strip().isdigit():
        return set()
    index = archive.read(68, int(header[48:58]))
    return names & {name.decode("utf-8", "surrogateescape") for name in index.split(b"\0")}


def _loaded(patterns: tuple[str, ...]) -> Iterator[str]:
    try:
        maps = Path("/proc/self/maps").read_text(errors="surrogateescape")
    except OSError:
        return
    paths = sorted(map(Path, set(re.findall(r"/\S.*$", maps, re.MULTILINE))))
    for pattern in patterns:
        for path in paths:
            if fnmatch.fnmatchcase(path.name, pattern) and _is_file(path):
                yield str(path)


def _installed(patterns: tuple[str, ...]) -> Iterator[str]:
    for pattern in patterns:
        for folder in _folders():
            yield from (str(path) for path in _below(folder, [pattern]) if _is_file(path))


def _folders() -> Iterator[Path]:
    for variable in _FOLDERS_IN_ENVIRONMENT:
        for name in filter(None, os.environ.get(variable, "").split(os.pathsep)):
            path = Path(name)
            yield path.parent if _is_file(path) else path  # CUTE_DSL_LIBS has files
    for entry in sys.path:
        if not isinstance(entry, str):
            continue  # anybody may put anything there, and the import system passes it over
        yield from _below(Path(entry), _IN_PACKAGES)
    roots = [sys.prefix, sys.base_prefix, *map(os.environ.get, _ROOTS_IN_ENVIRONMENT)]
    for root in dict.fromkeys([*filter(None, roots), "/usr/local/cuda", "/usr/local", "/usr", "/"]):
        yield from _below(Path(root), _BELOW_ROOT)


def _below(root: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        # What can't be looked at is as good as not there: what is to be told is the missing symbol.
        with contextlib.suppress(OSError, ValueError):
            yield from sorted(root.glob(pattern), key=_version, reverse=True)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _version(path: Path) -> list[tuple[int, str]]:
    """Return what sorts libfoo.so.9 before libfoo.so.10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
