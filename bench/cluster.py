# SPDX-License-Identifier: Apache-2.0
"""Time kernels in the workers of a Dask cluster on this machine, against what is sent without them.

``python -m bench.cluster TASKS OBJECTS`` prints the seconds of one round: row -> competitor -> of a
task, of the first call on a new worker, of an object that is sent and called. The ``silu.py`` of
docs/many-machines.md has to be importable.
"""

from __future__ import annotations

import functools
import importlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from bench import objects, peers, recipes
from bench.targets import LIBRARIES, NUMPY

CHUNK = 1 << 12
NUMBER = 0x1122334455667788
# An object, or a library, is made one of many by writing another number into it.
NUMBERED = f"""
#include <tvm/ffi/c_api.h>
static volatile const int64_t number = {NUMBER};
int __tvm_ffi_add(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {{
  result->type_index = kTVMFFIInt;
  result->v_int64 = number;
  return 0;
}}
"""


def silu(x: Any) -> Any:
    """Do the kernel's work."""
    return x / (1 + numpy.exp(-x))


def call(function: Callable[[], int]) -> int:
    """Call a function that was sent."""
    return function()


def call_library(content: bytes) -> int:
    """Load a shared library that was sent, and call its function."""
    import tvm_ffi

    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(content)
        file.flush()
        return int(tvm_ffi.load_module(file.name).add())


def numbered(path: Path, count: int) -> list[bytes]:
    """Return so many copies of a file, each with another number."""
    content, mark = path.read_bytes(), NUMBER.to_bytes(8, "little")
    assert content.count(mark) == 1
    return [content.replace(mark, number.to_bytes(8, "little")) for number in range(count)]


def workers(client: Any) -> list[str]:
    """Return the addresses of the workers."""
    return list(client.scheduler_info(n_workers=-1)["workers"])


def shuffled(competitors: Mapping[str, Any]) -> list[str]:
    """Return the names in the order of this round."""
    return random.sample(list(competitors), len(competitors))


def tasks(client: Any, competitors: Mapping[str, Any], count: int) -> dict[str, float]:
    """Return the seconds a task, of so many on workers that have had such tasks before."""
    array, distributed = map(importlib.import_module, ("dask.array", "distributed"))
    x = array.linspace(-8, 8, count * CHUNK, chunks=CHUNK).persist()
    distributed.wait(x)
    taken = {}
    for name in 2 * shuffled(competitors):
        start = time.perf_counter()
        distributed.wait(x.map_blocks(competitors[name], dtype=x.dtype).persist())
        taken[name] = (time.perf_counter() - start) / count
    return taken


def first_calls(client: Any, competitors: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of the first task on a worker that is new."""
    known = workers(client)
    client.cluster.scale(len(known) + len(competitors))
    client.wait_for_workers(len(known) + len(competitors))
    new = [worker for worker in workers(client) if worker not in known]
    x = numpy.linspace(-8, 8, CHUNK)
    taken = {}
    for name, worker in zip(shuffled(competitors), new, strict=True):
        start = time.perf_counter()
        client.submit(competitors[name], x, workers=[worker], pure=False).result()
        taken[name] = time.perf_counter() - start
    client.retire_workers(new)
    return taken


def sent(client: Any, competitors: Mapping[str, tuple[Sequence[Any], Any]]) -> dict[str, float]:
    """Return the seconds an object, until each worker has called all that are sent to all."""
    taken = {}
    for name in shuffled(competitors):
        items, function = competitors[name]
        start = time.perf_counter()
        futures = client.scatter(items, broadcast=True)
        called = [
            client.map(function, futures, workers=[each], pure=False) for each in workers(client)
        ]
        results = client.gather(called)
        taken[name] = (time.perf_counter() - start) / len(items)
        assert results == [list(range(len(items)))] * len(called)
    return taken


def one_round(task_count: int, object_count: int) -> dict[str, dict[str, float]]:
    """Return the seconds of one round, by row and competitor."""
    tol = importlib.import_module("tvm_ffi_object_loader")
    distributed = importlib.import_module("distributed")
    page = importlib.import_module("silu")
    content = objects.compile_c(NUMBERED, "numbered")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client, tol.Session(picklable=True) as session:
        kernel = session.load(recipes.compile_source(page.SOURCE, "silu"))["silu"]
        same = {peers.OURS: functools.partial(page.apply, kernel=kernel), NUMPY: silu}
        dylibs = session.load_all(numbered(content, object_count))
        libraries = numbered(objects.shared(content), object_count)
        many = {
            peers.OURS: ([dylib["add"] for dylib in dylibs], call),
            LIBRARIES: (libraries, call_library),
        }
        return {
            "task": tasks(client, same, task_count),
            "first_call": first_calls(client, same),
            "send": sent(client, many),
        }


if __name__ == "__main__":
    print(json.dumps(one_round(int(sys.argv[1]), int(sys.argv[2]))))
