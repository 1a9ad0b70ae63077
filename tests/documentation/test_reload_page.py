# SPDX-License-Identifier: Apache-2.0
"""docs/reloading.md gives what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from pages import Page, run_command

PAGE = Page("docs/reloading.md")

pytestmark = PAGE.needed


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PAGE.write_files(tmp_path)
    (commands,) = PAGE.blocks("sh")
    result = run_command(commands)
    assert result.returncode == 0, result.stderr
    names: dict[str, object] = {}
    assert PAGE.run(names) == 4
    dylib = names["dylib"]
    assert isinstance(dylib, tol.Dylib)
    dylib.close()
