# SPDX-License-Identifier: Apache-2.0
"""What sources/objects.cc and sources/handing_out.cc make: texts that are objects, not values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def text(n: int) -> str:
    return f"a string that is too long to be a value {n}"


def of_texts(n: int) -> Callable[[Any], bool]:
    return lambda value: list(value) == [text(n), text(n + 1)]


def raised(function: Callable[[int], object]) -> str:
    with pytest.raises(ValueError, match="too long") as caught:
        function(1)
    return str(caught.value)
