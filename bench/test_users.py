# SPDX-License-Identifier: Apache-2.0
"""Load and call what TVM and CuTe DSL make, against the shared libraries that they make.

These come last: importing TVM gives the modules of a process another class.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import peers, producers
from bench.interleave import Measure, Sampler, call_sampler, operation_sampler

MODULES: dict[str, Callable[[], producers.Produced | str]] = {
    "cute": lambda: producers.cute("kernel"),
    "te": producers.te,
    "network": producers.network,
}
CALLED: dict[str, tuple[Callable[[], producers.Produced | str], str]] = {
    "cute": (lambda: producers.cute("host"), "host"),
    "te": (producers.te, "add"),
}
COMPETITORS = (peers.OURS, peers.DLOPEN, peers.PEER)


@pytest.mark.parametrize("name", MODULES)
def test_load(measure: Measure, name: str) -> None:
    """Load what a producer made, look up and call once."""
    produced = MODULES[name]()
    competitors: dict[str, Sampler | str] = {}
    for competitor in COMPETITORS:
        if isinstance(produced, str):
            competitors[competitor] = produced
        else:
            competitors[competitor] = load_sampler(produced, competitor)
    measure(f"producers/{name}", competitors, rounds=40 if name == "network" else 150)


def load_sampler(produced: producers.Produced, competitor: str) -> Sampler | str:
    """Return a competitor's sampler of load + look up + first call, or why there is none."""
    load = producers.loaders(produced)[competitor]
    if isinstance(load, str):
        return load

    def load_and_call() -> object:
        module = load()
        return module, produced.call(module)

    return operation_sampler(load_and_call)


@pytest.mark.parametrize("name", CALLED)
def test_call(measure: Measure, name: str) -> None:
    """Call a function that a producer made, with arrays of eight numbers."""
    make, function = CALLED[name]
    produced = make()
    competitors: dict[str, Sampler | str] = {}
    for competitor in COMPETITORS:
        load = produced if isinstance(produced, str) else producers.loaders(produced)[competitor]
        if isinstance(load, str):
            competitors[competitor] = load
        else:
            arrays = producers.arrays_of(3 if name == "te" else 2)
            competitors[competitor] = call_sampler(load().get_function(function), arrays)
    measure(f"producers/{name}/call", competitors, rounds=60)
