# SPDX-License-Identifier: Apache-2.0
"""README's table of what loads is what the tests ran.

Where the peer is not installed, or in another version, its column is not compared.
"""

from __future__ import annotations

import pytest
import table
from registry import KINDS

from compilation import CLANG, Compiler

pytestmark = [
    pytest.mark.skipif(not table.README.is_file(), reason="README.md is not here"),
    pytest.mark.skipif(CLANG is None, reason="no clang"),
]


def test_the_table_has_a_row_for_every_kind() -> None:
    _, _, *rows = table.committed()
    assert [row[0] for row in rows] == list(dict.fromkeys(kind.title for kind in KINDS))


def test_the_table_says_that_whatever_is_tested_to_load_loads() -> None:
    refused = {kind.title for kind in KINDS if kind.refused}
    _, _, *rows = table.committed()
    assert {row[0] for row in rows if row[2] != table.LOADS} == refused


@pytest.mark.slow
def test_the_table_is_what_the_loads_give(compile: Compiler) -> None:
    header, _, *rows = table.committed()
    ways = ["dlopen", "loader"]
    if header[-1] == f"{table.PEER} {table.peer_version()}":
        ways.append("peer")
    measured = table.rows(compile, tuple(ways))
    assert {row[0]: row[1 : 1 + len(ways)] for row in rows} == measured
