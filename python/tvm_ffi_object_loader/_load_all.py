# SPDX-License-Identifier: Apache-2.0
"""Many loads at a time: threads, results in order, and a progress bar."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from .arguments import require_bool
from .errors import LoadAllError

if TYPE_CHECKING:
    from .arguments import Objects
    from .dylib import Dylib

Item: TypeAlias = "tuple[str | None, Objects]"  # a name, if it has one, and what to load

# So many loads for each thread may wait for it: one that takes long holds up no other, and what
# makes the objects is never far ahead.
AHEAD = 4


def load_all(
    load: Callable[[str | None, Objects], Dylib],
    objects: Iterable[Objects] | Mapping[str, Objects],
    threads: int | None,
    progress: bool,
) -> list[Dylib]:
    """Call ``load`` for each of ``objects``, as `Session.load_all` says.

    Raises
    ------
    LoadAllError
        If some cannot be loaded.
    ImportError
        If there is to be a progress bar, and rich is not installed.
    TypeError
        If an argument is of another type.
    ValueError
        If there is not one thread.
    """
    require_bool("progress", progress)
    workers = _count_threads(threads)
    items = _items_of(objects)
    total = len(objects) if isinstance(objects, Sized) else None
    labels: list[str] = []
    results: list[Dylib | Exception] = []
    with _bar(total) if progress else _no_bar() as advance:
        for (name, item), outcome in _outcomes(load, items, workers):
            labels.append(_label(len(results), name, item))
            results.append(outcome)
            advance(isinstance(outcome, Exception))
    loaded = [result for result in results if not isinstance(result, Exception)]
    if len(loaded) < len(results):
        raise LoadAllError(_describe(labels, results), results)
    return loaded


def _count_threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0))
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an int or None, not {type(threads).__name__}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return threads


def _items_of(objects: Iterable[Objects] | Mapping[str, Objects]) -> Iterator[Item]:
    if isinstance(objects, Mapping):
        return iter(objects.items())
    is_single = isinstance(objects, (str, bytes, bytearray, memoryview, os.PathLike))
    if is_single or not isinstance(objects, Iterable):
        raise TypeError(
            "load_all takes an iterable, or a mapping from names, of what load() takes, not "
            f"{type(objects).__name__}; for one dylib there is load()"
        )
    return ((None, item) for item in objects)


def _outcomes(
    load: Callable[[str | None, Objects], Dylib], items: Iterator[Item], workers: int
) -> Iterator[tuple[Item, Dylib | Exception]]:
    """Yield each item, in order, and what came of it."""
    if workers == 1:
        for item in items:
            yield item, _try(load, *item)
        return
    waiting: deque[tuple[Item, Future[Dylib | Exception]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="load_all") as pool:
        try:
            for item in items:
                if len(waiting) == AHEAD * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
                waiting.append((item, pool.submit(_try, load, *item)))
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _try(
    load: Callable[[str | None, Objects], Dylib], name: str | None, item: Objects
) -> Dylib | Exception:
    try:
        return load(name, item)
    except Exception as error:
        return error


def _label(position: int, name: str | None, item: Objects) -> str:
    if name is not None:
        return repr(name)
    if isinstance(item, (str, os.PathLike)):
        return os.fsdecode(item)
    return f"objects[{position}]"


SHOWN = 20


def _describe(labels: list[str], results: list[Dylib | Exception]) -> str:
    """Say what went wrong, a line for each."""
    causes = []
    for label, result in zip(labels, results, strict=True):
        if isinstance(result, Exception):
            cause = (str(result) or type(result).__name__).splitlines()[0]
            causes.append(cause if cause.startswith(label) else f"{label}: {cause}")
    lines = [f"{len(causes)} of {len(results)} could not be loaded:"]
    lines += [f"  {cause}" for cause in causes[:SHOWN]]
    if len(causes) > SHOWN:
        lines.append(f"  and {len(causes) - SHOWN} more")
    rest = len(results) - len(causes)
    lines.append(
        f"This error's results hold their exceptions, and the {rest} dylib(s) of the rest."
    )
    return "\n".join(lines)


@contextmanager
def _no_bar() -> Iterator[Callable[[bool], None]]:
    yield lambda failed: None


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[bool], None]]:
    """Show a progress bar on standard error, or in a notebook; what is yielded advances it."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )
    except ImportError as error:
        raise ImportError(
            "progress=True needs rich: pip install 'tvm-ffi-object-loader[cli]'", name=error.name
        ) from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading", total=total)
        failures = 0

        def advance(failed: bool) -> None:
            nonlocal failures
            failures += failed
            about = f"loading, {failures} failed" if failures else "loading"
            bar.update(task, advance=1, description=about)

        yield advance
