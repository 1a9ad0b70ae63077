# SPDX-License-Identifier: Apache-2.0
"""Where the project's files are."""

from __future__ import annotations

from pathlib import Path

HELPERS = Path(__file__).parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
