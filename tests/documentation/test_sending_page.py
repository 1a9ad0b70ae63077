# SPDX-License-Identifier: Apache-2.0
"""docs/sending.md: its examples run and give what they say, and its numbers are the code's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages import Page, run_command
from tvm_ffi_object_loader import _received

PAGE = Page("docs/sending.md")

pytestmark = PAGE.needed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    PAGE.write_files(tmp_path)
    (command,) = PAGE.blocks("sh")
    result = run_command(command)
    assert result.returncode == 0, result.stderr
    return tmp_path


def test_the_examples(folder: Path) -> None:
    assert PAGE.run({}) == 5


def test_the_script(folder: Path) -> None:
    result = run_command("python workers.py")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"# {result.stdout}" in (folder / "workers.py").read_text()


def test_the_bounds() -> None:
    assert f"the last {_received.MOST_DYLIBS:,} dylibs" in PAGE.text
    assert f"{_received.MOST_BYTES >> 20} MiB of objects" in PAGE.text
