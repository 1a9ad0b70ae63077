# SPDX-License-Identifier: Apache-2.0
"""Calls: what it costs to get from Python into a function that does nothing, and what objects cost
that it returns or is given."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from typing import Any

import pytest
import tvm_ffi

from bench import objects, peers
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


@pytest.mark.parametrize("kind", ["string", "tensor", "array", "map"])
def test_result(measure: Measure, kind: str) -> None:
    """Call for an object, and drop it: a string, a tensor, 100 strings, a map with 100 of them."""
    measure(f"result/{kind}", samplers(kind, 100), rounds=300)


@pytest.mark.parametrize("kind", ["integers", "strings", "lists"])
def test_list_argument(measure: Measure, kind: str) -> None:
    """Call with a list of 100 elements, which the function may have changed."""
    element: dict[str, Any] = {"integers": 1, "strings": LONG, "lists": tvm_ffi.List([LONG])}
    measure(f"argument/{kind}", samplers("size", tvm_ffi.List([element[kind]] * 100)), rounds=300)


def test_callback(measure: Measure) -> None:
    """Call with a function of Python's, which is called with a string."""
    measure("argument/function", samplers("call_back", tvm_ffi.convert(len)), rounds=300)


def samplers(name: str, argument: object) -> dict[str, Sampler | str]:
    """Return the samplers of one function of ``results.cc``."""
    return {
        competitor: sampler(
            module if isinstance(module, str) else module.get_function(name), (argument,)
        )
        for competitor, module in peers.modules(objects.results_object()).items()
    }
