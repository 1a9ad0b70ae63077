# SPDX-License-Identifier: Apache-2.0
"""Send a function to another process: its pickle, against the bytes of a shared library."""

from __future__ import annotations

import functools
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import objects, peers, probe
from bench.interleave import Measure, Sampler, operation_sampler


@pytest.fixture
def sent(tmp_path: Path) -> dict[str, Path | str]:
    """Return what is sent of a C++ object, in a file, or why there is nothing."""
    package = peers.imported(peers.MODULES[peers.OURS])
    found: dict[str, Path | str] = {probe.SENT_LIBRARY: objects.shared(objects.cpp_object())}
    if isinstance(package, str):
        return {peers.OURS: package, **found}
    pickled = tmp_path / "pickled"
    pickled.write_bytes(pickle.dumps(package.Session().load(objects.cpp_object())["add"]))
    return {peers.OURS: pickled, **found}


def test_receive(measure: Measure, sent: dict[str, Path | str]) -> None:
    """Receive and call in a process that has received others before."""

    def receive(receiver: probe.Receiver, data: bytes) -> Any:
        function = receiver(data)
        assert function(1, 2) == 3
        return function

    def forget(_: object) -> None:
        for dylib in sys.modules["tvm_ffi_object_loader._received"]._session.dylibs.values():
            dylib.close()

    competitors: dict[str, Sampler | str] = {}
    for name, path in sent.items():
        if isinstance(path, str):
            competitors[name] = path
            continue
        operation = functools.partial(receive, probe.RECEIVERS[name], path.read_bytes())
        competitors[name] = operation_sampler(operation, forget if name == peers.OURS else None)
    measure("send/cpp", competitors, rounds=100)


def test_new_worker(measure: Measure, sent: dict[str, Path | str]) -> None:
    """Receive and call in a process that has imported nothing but tvm_ffi."""
    competitors: dict[str, Sampler | str] = {
        name: path if isinstance(path, str) else functools.partial(probe.ask, "receive", name, path)
        for name, path in sent.items()
    }
    measure("send/cpp/new_worker", competitors, rounds=20)
