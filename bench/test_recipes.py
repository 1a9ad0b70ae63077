# SPDX-License-Identifier: Apache-2.0
"""What docs/ shows, against what people do without it."""

from __future__ import annotations

from functools import partial

from bench import peers, recipes
from bench.interleave import Measure, Sampler
from bench.targets import PROCESS_EACH


def test_trials(measure: Measure, quick: bool) -> None:
    """Try out 1,000 candidates of an autotuner in warm workers; 20 with a process each."""
    count, processes = (100, 4) if quick else (1000, 20)
    ours = peers.imported(peers.MODULES[peers.OURS])
    competitors: dict[str, Sampler | str] = {
        peers.OURS: ours
        if isinstance(ours, str)
        else partial(recipes.ask, "trials", "autotuner", "warm", count),
        PROCESS_EACH: partial(recipes.ask, "trials", "autotuner", "processes", processes),
    }
    measure("recipes/trials", competitors, rounds=9, quick_rounds=2, warm_up=False, count=count)
