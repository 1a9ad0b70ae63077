# SPDX-License-Identifier: Apache-2.0
"""Compile the sources of the tests, and link them as their oracle does: with ``cc -shared``."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import tvm_ffi
from tvm_ffi import libinfo

from folders import TESTS
from processors import lacks

SOURCES = TESTS / "sources"
Language = Literal["c", "c++", "assembler"]


class Toolchain(NamedTuple):
    """A C and a C++ compiler of one make."""

    name: str
    cc: str
    cxx: str


def _find_clang() -> Toolchain | None:
    versions = ["", *(f"-{version}" for version in range(30, 13, -1))]
    for version in versions:
        cc, cxx = shutil.which(f"clang{version}"), shutil.which(f"clang++{version}")
        if cc and cxx:
            return Toolchain("clang", cc, cxx)
    return None


GCC = Toolchain("gcc", "gcc", "g++")
CLANG = _find_clang()
TOOLCHAINS = [GCC] if CLANG is None else [GCC, CLANG]
both_makes = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)


class Compiler:
    """Turn sources into objects, each combination of text, flags and compiler only once.

    With the folder that the environment variable COMPILED_OBJECTS names, once for all runs that are
    given that one: it is for runs of the same tests on one system.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared = Path(os.environ.get("COMPILED_OBJECTS", folder))
        self._numbers = itertools.count()
        self._objects: dict[str, Path] = {}

    def __call__(
        self,
        source: str,
        *flags: str,
        language: Language = "c",
        toolchain: Toolchain = GCC,
        name: str = "object",
    ) -> Path:
        """Compile `source` (text, or the name of a file in tests/sources) with `flags`.

        Without flags they are ``-O2 -fPIC``. The object's file name begins with `name`.
        """
        if "\n" not in source:
            language = "c++" if source.endswith(".cc") else "c"
            name = Path(source).stem
            source = (SOURCES / source).read_text()
        flags = flags or ("-O2", "-fPIC")
        if why := lacks(toolchain.name, flags):
            pytest.skip(why)
        key = repr((source, flags, language, toolchain, name))
        if key not in self._objects:
            known = (key, shutil.which(toolchain.cc), tvm_ffi.__version__)
            digest = hashlib.sha256(repr(known).encode()).hexdigest()[:16]
            path = self._folder / f"{name}-{digest}.o"
            shared = self._shared / f"{digest}.compiled"
            if not shared.exists():
                # Another process may be at it, too: it gets its name when it is whole.
                self._shared.mkdir(exist_ok=True)
                part = self._shared / f"{digest}-{os.getpid()}.part"
                self._compile(source, part, flags, language, toolchain)
                part.rename(shared)
            # Each run has files of its own, which a test may change.
            shutil.copyfile(shared, path)
            self._objects[key] = path
        return self._objects[key]

    def _compile(
        self,
        source: str,
        path: Path,
        flags: tuple[str, ...],
        language: Language,
        toolchain: Toolchain,
    ) -> None:
        includes = [f"-I{folder}" for folder in (SOURCES, *libinfo.include_paths())]
        compiler = toolchain.cxx if language == "c++" else toolchain.cc
        standard = ["-std=c++17"] if language == "c++" else []
        command = [compiler, *standard, *includes, *flags, "-c", "-x", language]
        subprocess.run([*command, "-o", str(path), "-"], input=source, text=True, check=True)

    def cxx(
        self, source: str, *flags: str, toolchain: Toolchain = GCC, name: str = "object"
    ) -> Path:
        """Compile `source` as C++."""
        return self(source, *flags, language="c++", toolchain=toolchain, name=name)

    def link(self, *objects: Path, flags: tuple[str, ...] = (), quiet: bool = False) -> Path:
        """Link `objects` to a shared library that no other call returns.

        `quiet` is for those that the linker may refuse.
        """
        path = self._folder / f"linked-{next(self._numbers)}.so"
        command = ["g++", "-shared", "-o", str(path), *map(str, objects), *flags]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL if quiet else None)
        return path

    def dlopen(self, *objects: Path) -> tvm_ffi.Module:
        """Link `objects` and dlopen the result: what a test compares with."""
        return tvm_ffi.load_module(self.link(*objects), keep_module_alive=False)
