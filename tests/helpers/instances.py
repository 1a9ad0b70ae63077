# SPDX-License-Identifier: Apache-2.0
"""Instances of a kind, of which the default tests take some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import pytest

Instance = TypeVar("Instance")


def matrix_but(instances: Iterable[Instance], *quick: Instance) -> list[Any]:
    """Return the instances for one parameter, those that are not among `quick` marked as matrix."""
    every = list(instances)
    assert not set(quick).difference(every), quick
    return [one if one in quick else pytest.param(one, marks=pytest.mark.matrix) for one in every]
