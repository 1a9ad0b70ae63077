# SPDX-License-Identifier: Apache-2.0
"""What docs/ shows, against what people do without it."""

from __future__ import annotations

import collections
import functools

import pytest

from bench import peers, recipes
from bench.interleave import Measure, Sampler
from bench.targets import LIBRARIES, NUMPY, PROCESS_EACH

CLUSTER_ROWS = {"task": NUMPY, "first_call": NUMPY, "send": LIBRARIES}
waiting: dict[tuple[str, str], collections.deque[float]] = collections.defaultdict(
    collections.deque
)


def test_trials(measure: Measure, quick: bool) -> None:
    """Try out 1,000 candidates of an autotuner in warm workers; 20 with a process each."""
    count, processes = (100, 4) if quick else (1000, 20)
    ours = peers.imported(peers.MODULES[peers.OURS])
    competitors: dict[str, Sampler | str] = {
        peers.OURS: ours
        if isinstance(ours, str)
        else functools.partial(recipes.ask, "trials", "autotuner", "warm", count),
        PROCESS_EACH: functools.partial(recipes.ask, "trials", "autotuner", "processes", processes),
    }
    measure("recipes/trials", competitors, rounds=9, quick_rounds=2, warm_up=False, count=count)


@pytest.mark.parametrize("row", CLUSTER_ROWS)
def test_cluster(measure: Measure, quick: bool, row: str) -> None:
    """Map, call first and send in a cluster of Dask, which measures all rows in each round."""
    count = 100 if quick else 1000
    reason = None
    for module in (peers.MODULES[peers.OURS], "dask.array", "distributed"):
        if isinstance(found := peers.imported(module), str):
            reason = f"{module}: {found}"

    def sample(name: str) -> float:
        if not waiting[row, name]:
            for key, seconds in recipes.ask("cluster", "many-machines", count, count).items():
                for competitor, taken in seconds.items():
                    waiting[key, competitor].append(taken)
        return waiting[row, name].popleft()

    competitors: dict[str, Sampler | str] = {
        name: reason or functools.partial(sample, name) for name in (peers.OURS, CLUSTER_ROWS[row])
    }
    extra = {"quick_rounds": 1, "count": count}
    measure(f"recipes/dask/{row}", competitors, rounds=7, warm_up=False, **extra)
