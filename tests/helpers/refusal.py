# SPDX-License-Identifier: Apache-2.0
"""What holds for every refused load, whatever the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tvm_ffi_object_loader as tol


class Refusal:
    """Runs a load that must be refused, and checks all that holds for every refusal."""

    def __init__(self, good: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.session = tol.Session()
        self.dylib = self.session.load(good, name="good")
        self.loader = tol.ObjectLoader()
        self._capfd = capfd

    @contextlib.contextmanager
    def of(
        self, error: type[BaseException], *named: object
    ) -> Iterator[pytest.ExceptionInfo[BaseException]]:
        """Expect exactly `error`, with each of `named` in its message."""
        functions, stats = self.dylib.functions, self.session.stats().as_dict()
        dylibs = list(self.session.dylibs)
        with pytest.raises(error) as caught:
            yield caught
        assert type(caught.value) is error
        for part in named:
            assert str(part) in str(caught.value)
        out, err = self._capfd.readouterr()
        assert (out, err) == ("", "")
        assert self.dylib.functions == functions
        assert list(self.session.dylibs) == dylibs
        for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data"):
            assert self.session.stats().as_dict()[key] == stats[key]
        assert self.dylib["add"](1, 2) == 3

    def entry_points(self) -> list[Callable[[Any], object]]:
        """Return everything that takes objects."""
        return [
            self.dylib.load,
            self.session.load,
            self.session.load_module,
            self.loader.load,
            tol.load_module,
        ]
