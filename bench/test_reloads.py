# SPDX-License-Identifier: Apache-2.0
"""Reloads: what one takes, and what it leaves of the calls of a function that was handed out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import objects, peers, probe
from bench.interleave import Measure, Sampler, call_sampler, operation_sampler
from bench.targets import NEVER_RELOADED
from bench.test_loads import load_sampler

RELOADS = 1000


def load() -> Any:
    """Return a dylib of this package with the C object's function."""
    package: Any = pytest.importorskip("tvm_ffi_object_loader")
    return package.Session().load(objects.c_object())


def test_call_of_a_reloaded_function(measure: Measure) -> None:
    """Call a function whose dylib was reloaded 1,000 times, and one whose dylib never was."""
    dylib, other = load(), load()
    function = dylib["add"]
    for _ in range(RELOADS):
        dylib.reload(objects.c_object())
        assert function(1, 2) == 3
    competitors: dict[str, Sampler | str] = {
        peers.OURS: call_sampler(function, (1, 2)),
        NEVER_RELOADED: call_sampler(other["add"], (1, 2)),
    }
    measure("call/reloaded", competitors, rounds=300)


def test_reload(measure: Measure, tmp_path: Path) -> None:
    """Reload an object, which unloads the one before, and call a function that was handed out.

    Others load it, look the function up, call it and drop it; the dynamic linker a copy, which
    nobody else has open.
    """
    obj = objects.c_object()
    dylib = load()
    function = dylib["add"]

    def reload() -> None:
        dylib.reload(obj)
        assert function(1, 2) == 3

    (library,) = objects.copies(objects.shared(obj), 1, tmp_path)
    opened = probe.loader(peers.DLOPEN)

    def load_library() -> None:
        assert opened.load(library)[-1](1, 2) == 3

    competitors: dict[str, Sampler | str] = {
        peers.OURS: operation_sampler(reload),
        peers.DLOPEN: operation_sampler(load_library),
        peers.PEER: load_sampler(peers.PEER, obj, drop=True),
    }
    measure("reload/c", competitors, rounds=300)
