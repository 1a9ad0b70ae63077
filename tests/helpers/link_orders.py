# SPDX-License-Identifier: Apache-2.0
"""Dylibs along a link order, and libraries that depend on each other, to compare them with."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

numbers = itertools.count()
Loaded = tol.Dylib | tvm_ffi.Module


def call(of: Loaded, name: str, *arguments: int) -> Any:
    return of.get_function(name)(*arguments)


def addresses(users: dict[str, Loaded]) -> set[int]:
    return {call(user, f"{name}_address") for name, user in users.items()}


def link(compile: Compiler, path: Path, *libraries: Path) -> Path:
    """Link an object to libraries."""
    flags = ["-Wl,--no-as-needed"]
    for library in libraries:
        flags += [f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}"]
    return compile.link(path, flags=tuple(flags))


def dlopen(*libraries: Path) -> list[tvm_ffi.Module]:
    """Open libraries; those that the first depends on come with it, and are one with it."""
    return [tvm_ffi.load_module(library, keep_module_alive=False) for library in libraries]
