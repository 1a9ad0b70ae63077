# SPDX-License-Identifier: Apache-2.0
"""Measure competitors side by side: one sample of each a round, in an order that changes.

A competitor is a callable that returns one sample (seconds, or bytes). Machines drift and stall;
competitors that take turns meet the same weather, so the ratio within a round holds where absolute
times don't. The ratio reported is the median over the rounds of that ratio.
"""

from __future__ import annotations

import gc
import random
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Sampler = Callable[[], float]
Measure = Callable[..., None]  # The fixture of conftest.py.


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return a quantile of the values, interpolated linearly."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles and extremes of the values, and their number."""
    return {
        "median": quantile(values, 0.5),
        "q1": quantile(values, 0.25),
        "q3": quantile(values, 0.75),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


@dataclass
class Row:
    """The samples of one row of the report.

    Parameters
    ----------
    key
        Name of the row, such as ``load/cpp``.
    subject
        The competitor whose ratio to each other one is reported.
    competitors
        Name -> sampler, or the reason why there is none (``"not installed"``).
    unit
        ``"s"`` or ``"B"``.
    """

    key: str
    subject: str
    competitors: Mapping[str, Sampler | str]
    unit: str = "s"
    samples: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    order: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        for name, sampler in self.competitors.items():
            if isinstance(sampler, str):
                self.absent[name] = sampler
            else:
                self.samples[name] = []

    def run_round(self) -> dict[str, float]:
        """Take one sample of each competitor, in a random order, with the garbage collector off.

        A competitor that fails is recorded with its error and dropped; the subject's error is
        raised.

        Returns
        -------
        dict
            The samples taken, by competitor.
        """
        names = list(self.samples)
        self.order.shuffle(names)
        taken: dict[str, float] = {}
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            for name in names:
                sampler = self.competitors[name]
                assert callable(sampler)
                try:
                    taken[name] = sampler()
                except Exception as error:
                    if name == self.subject:
                        raise
                    self.absent[name] = f"failed: {type(error).__name__}: {error}"[:300]
                    del self.samples[name]
        finally:
            if was_enabled:
                gc.enable()
        for name, sample in taken.items():
            self.samples[name].append(sample)
        return taken

    def warm_up(self) -> None:
        """Run one round and forget its samples."""
        self.run_round()
        for values in self.samples.values():
            values.clear()

    def ratios(self) -> dict[str, dict[str, float]]:
        """Return the spread of subject / competitor over the rounds, for each competitor."""
        own = self.samples.get(self.subject, [])
        return {
            name: spread([mine / theirs for mine, theirs in zip(own, values, strict=True)])
            for name, values in self.samples.items()
            if own and name != self.subject and min(values) > 0
        }

    def record(self) -> dict[str, Any]:
        """Return everything measured, ready for JSON."""
        return {
            "row": self.key,
            "unit": self.unit,
            "subject": self.subject,
            "competitors": {
                name: {**spread(values), "samples": [float(f"{value:.5g}") for value in values]}
                for name, values in self.samples.items()
                if values
            },
            "absent": self.absent,
            "ratios": self.ratios(),
        }


def call_sampler(
    function: Callable[..., object], args: Sequence[object], seconds: float = 1e-3
) -> Sampler:
    """Return a sampler of the mean time of ``function(*args)``.

    Parameters
    ----------
    function
        The function called.
    args
        Its positional arguments.
    seconds
        Length of one sample; the number of calls in it is settled now, by trying.

    Returns
    -------
    Sampler
        Mean seconds a call. The loop's own few nanoseconds are included, for every competitor.
    """
    names = ", ".join(f"a{index}" for index in range(len(args)))
    setup = "; ".join(["f = function", *(f"a{i} = args[{i}]" for i in range(len(args)))])
    namespace = {"function": function, "args": args}
    timer = timeit.Timer(f"f({names})", setup, globals=namespace)
    number = 64
    while (taken := timer.timeit(number)) < seconds / 4:
        number *= 2
    number = max(1, round(number * seconds / taken))
    return lambda: timer.timeit(number) / number


def operation_sampler(
    operation: Callable[[], object],
    release: Callable[[Any], object] | None = None,
    seconds: float = 3e-3,
    most: int = 20,
) -> Sampler:
    """Return a sampler of the mean time of an operation whose result is let go untimed.

    Parameters
    ----------
    operation
        What is timed.
    release
        Called with the operation's result, untimed; the result is dropped after it.
    seconds
        Length of one sample.
    most
        Largest number of operations in a sample.

    Returns
    -------
    Sampler
        Mean seconds an operation.
    """

    def sample(count: int) -> float:
        total = 0.0
        for _ in range(count):
            start = time.perf_counter()
            kept = operation()
            total += time.perf_counter() - start
            if release is not None:
                release(kept)
            del kept
        return total / count

    sample(1)  # The first one pays for what is set up once.
    count = max(1, min(most, round(seconds / sample(1))))
    return lambda: sample(count)
