# SPDX-License-Identifier: Apache-2.0
"""Caches of objects and inline sources, as programs use them."""

from __future__ import annotations

from pathlib import Path

import tvm_ffi

import tvm_ffi_object_loader as tol


def compile_once(source: Path, flags: list[str]) -> bytes:
    """Return the object of a source, compiled by whoever comes first."""
    cache: tol.ObjectCache = tol.ObjectCache(Path("folder"), max_bytes=1 << 30, frozen=False)
    key: str = tol.object_key(source, flags, {"arch": None})
    found: bytes | None = cache.get(key)
    compiled: bytes = cache.get_or_compile(key, lambda: b"object")
    figures: dict[str, int] = cache.stats().as_dict()
    print(found, figures, cache.path, cache.max_bytes, cache.frozen)
    return compiled


def inline() -> tvm_ffi.Module:
    """Compile source, and load it."""
    source = "int64_t twice(int64_t n) { return 2 * n; }"
    built: bytes = tol.build_object("numbers", cpp_sources=source, functions="twice")
    module: tvm_ffi.Module = tol.load_inline("numbers", cpp_sources=source, functions=["twice"])
    print(built)
    return module
