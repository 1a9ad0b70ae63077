# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest: maps are not laid out as the package expects, for all that it can tell.

It looks at maps of known contents when it is imported, so here it gets others. Then it goes through
maps by functions of tvm-ffi's, whose calls are counted.
"""

from __future__ import annotations

from typing import Any

import pytest
import tvm_ffi

OTHER = tvm_ffi.Map({1: 2})
calls = {"ffi.MapSize": 0, "ffi.DictSize": 0}


def _replace(name: str, function: Any) -> Any:
    before = tvm_ffi.get_global_func(name)
    tvm_ffi.register_global_func(name, function, override=True)
    return before


def _count(name: str) -> None:
    def counted(container: Any) -> int:
        calls[name] += 1
        return int(before(container))

    before = _replace(name, counted)


_make = _replace("ffi.Map", lambda *_entries: OTHER)

import tvm_ffi_object_loader  # noqa: E402, F401

_replace("ffi.Map", _make)
for _name in calls:
    _count(_name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, count in calls.items():
        terminalreporter.write_line(f"{name} was called: {count > 0}")
