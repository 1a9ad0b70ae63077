# SPDX-License-Identifier: Apache-2.0
"""The call alone: what it costs to get from Python into a function that does nothing."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from typing import Any

import pytest
import tvm_ffi

from bench import peers
from bench.interleave import Measure, Sampler, call_sampler

LONG = "a string that is longer than the seven bytes kept in place"


def arguments(kind: str) -> tuple[Any, ...] | str:
    """Return the arguments of one kind, or why there are none."""
    plain: dict[str, tuple[Any, ...]] = {
        "int": (1, 2),
        "float": (1.5, 2.5),
        "bool": (True,),
        "none": (None,),
        "str": (LONG,),
        "bytes": (LONG.encode(),),
        "object": (tvm_ffi.convert([1, 2, 3]),),
    }
    if kind in plain:
        return plain[kind]
    name = "torch" if kind == "torch" else "numpy"
    module = peers.imported(name)
    if isinstance(module, str):
        return f"{name}: {module}"
    array = module.zeros(16, dtype=module.float64)
    return (tvm_ffi.from_dlpack(array) if kind == "tensor" else array,)


def sampler(function: Callable[..., Any] | str, args: tuple[Any, ...]) -> Sampler | str:
    """Return the sampler of one call, or why there is none."""
    if isinstance(function, str):
        return function
    try:
        function(*args)
    except (TypeError, ctypes.ArgumentError) as error:
        return f"refuses the argument: {error}"
    return call_sampler(function, args)


KEPT = tuple((kind, False) for kind in ("int", "float", "bool", "none"))


@pytest.mark.parametrize(("kind", "release_gil"), [*((kind, True) for kind in peers.CASES), *KEPT])
def test_call(measure: Measure, kind: str, release_gil: bool) -> None:
    """Call with one kind of argument."""
    args = arguments(kind)
    functions = peers.callables(kind, release_gil)
    competitors: dict[str, Sampler | str] = {
        name: args if isinstance(args, str) else sampler(function, args)
        for name, function in functions.items()
    }
    if kind == "int":
        competitors["operator.add (floor)"] = call_sampler(operator.add, (1, 2))
    key = f"call/{kind}/{'released' if release_gil else 'kept'}"
    measure(key, competitors, rounds=300)
