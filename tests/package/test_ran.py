# SPDX-License-Identifier: Apache-2.0
"""The table of interpreters and releases is what ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ran

RUN: ran.Run = {
    "python": "3.9.1",
    "tvm_ffi": "0.1.9",
    "llvm": "23.1.1",
    "system": "Some Linux 1: gcc 12.2, glibc 2.36",
    "tests": "all",
    "passed": 7,
    "skipped": 1,
}


@pytest.mark.skipif(not ran.PAGE.is_file(), reason="docs/ is not here")
def test_the_table_is_what_ran() -> None:
    assert ran.committed() == ran.table(ran.read([ran.RECORD]))


def test_runs_are_in_the_order_of_their_versions(tmp_path: Path) -> None:
    file = tmp_path / "ran.jsonl"
    runs = [
        {**RUN, "python": "3.11.2", "tvm_ffi": "0.1.15.post2"},
        {**RUN, "python": "3.11.2", "tvm_ffi": "0.1.9"},
        {**RUN, "passed": 6},
        {**RUN, "python": "3.9.2"},
    ]
    file.write_text("".join(json.dumps(run) + "\n" for run in runs))
    read = ran.read([file])
    assert read == [runs[3], runs[1], runs[0]]
    assert ran.table(read).splitlines()[2] == (
        "| 3.9.2 | 0.1.9 | 23.1.1 | Some Linux 1: gcc 12.2, glibc 2.36 | all | 7 |"
    )


def test_a_run_is_recorded_with_its_versions() -> None:
    run = ran.this_run(3, 2)
    assert run.keys() == RUN.keys()
    assert (run["passed"], run["skipped"]) == (3, 2)
    assert str(run["system"]).count(" ") >= 5
    assert "unknown" not in str(run["system"])
