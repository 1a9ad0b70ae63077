# SPDX-License-Identifier: Apache-2.0
"""Packages that produce objects: the tests of one that is not installed are skipped."""

from __future__ import annotations

import importlib.util

import pytest


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def requires(module: str, package: str) -> pytest.MarkDecorator:
    """Skip tests where a package is not installed, without importing what takes seconds."""
    return pytest.mark.skipif(not _is_installed(module), reason=f"{package} is not installed")
