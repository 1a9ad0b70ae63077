# SPDX-License-Identifier: Apache-2.0
"""The table of what loads, in docs/what-loads.md or docs/aarch64.md, is what the tests ran.

Where the peer is not installed, or in another version, its column is not compared.
"""

from __future__ import annotations

import pytest

import table
from compilation import CLANG, Compiler
from registry import ABSENT, KINDS

pytestmark = [
    pytest.mark.skipif(not table.PAGE.is_file(), reason=f"{table.PAGE.name} is not here"),
    pytest.mark.skipif(CLANG is None, reason="no clang"),
]


def test_the_table_has_a_row_for_every_kind() -> None:
    _, _, *rows = table.committed()
    assert [row[0] for row in rows] == list(dict.fromkeys(kind.title for kind in KINDS))


def test_titles_that_no_kind_here_has_are_said_to_be_absent() -> None:
    assert table.committed_absent() == ", ".join(ABSENT)


def test_the_table_says_that_whatever_is_tested_to_load_loads() -> None:
    refused = {kind.title for kind in KINDS if kind.refused}
    _, _, *rows = table.committed()
    assert {row[0] for row in rows if row[2] != table.LOADS} == refused


@pytest.mark.matrix
@pytest.mark.slow
def test_the_table_is_what_the_loads_give(compile: Compiler) -> None:
    header, _, *rows = table.committed()
    ways = ["dlopen", "loader"]
    if header[-1] == f"{table.PEER} {table.peer_version()}":
        ways.append("peer")
    measured = table.rows(compile, tuple(ways))
    committed = {row[0]: row[1 : 1 + len(ways)] for row in rows}
    if "peer" in ways:
        # How it fails differs from machine to machine: some refuse what crashes on others.
        for cells in (*measured.values(), *committed.values()):
            cells[2] = cells[2] if cells[2] == table.LOADS else "fails"
    assert committed == measured
