# SPDX-License-Identifier: Apache-2.0
"""What is to be reached, and the loose bounds that fail a ``--quick`` round.

A ratio is this package's figure divided by the other's, measured in the same rounds; smaller is
better. The loose bounds only catch a collapse: machines are noisy and differ from each other (what
the kernel does for a load takes three times as long on some), and a quick round is short.
``bench/callgrind.py`` counts instructions, and `CALLGRIND` bounds them tightly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.peers import DLOPEN, PEER

LINKED = "cc -shared + dlopen"
NEVER_RELOADED = "never reloaded"
PROCESS_EACH = "cc -shared + a process each"
NUMPY = "a NumPy function"
LIBRARIES = "shared libraries that are linked"
PEER_WHEEL = f"{PEER} 0.1.3, wheel on PyPI"
PEER_WHEEL_BYTES = 15_966_993.0


@dataclass(frozen=True)
class Target:
    """One line of the table of targets.

    Parameters
    ----------
    title
        What is measured.
    rows
        The rows it is judged by; the worst of them counts.
    against
        The competitor whose figure the ratio is over.
    reach
        Largest ratio at which the target is reached.
    loose
        Largest ratio at which a ``--quick`` round passes.
    bound
        What bounds it, where it is beyond reach; the report shows it.
    count
        The loads that its title speaks of: a row measured with fewer does not decide it.
    """

    title: str
    rows: tuple[str, ...]
    against: str
    reach: float
    loose: float
    bound: str = ""
    count: int = 0


SCALARS = ("int", "float", "bool", "none")
CONTENTS = ("constants", "data")
CONTENT_SIZES = tuple(2**power for power in range(18, 27, 2))
TARGETS = (
    Target(
        "call with int/float/bool/None, GIL released",
        tuple(f"call/{kind}/released" for kind in SCALARS),
        *(DLOPEN, 0.5, 1.2),
        bound="two thirds of the call release and take the GIL; a nanobind function that does "
        "takes as long",
    ),
    Target(
        "call with int/float/bool/None, GIL kept",
        tuple(f"call/{kind}/kept" for kind in SCALARS),
        *(DLOPEN, 0.35, 0.9),
    ),
    Target(
        "call with str, bytes, tvm_ffi.Tensor, FFI object",
        tuple(f"call/{kind}/released" for kind in ("str", "bytes", "tensor", "object")),
        *(DLOPEN, 0.75, 2.0),
    ),
    Target(
        "call with a NumPy or PyTorch array",
        ("call/numpy/released", "call/torch/released"),
        *(DLOPEN, 1.0, 2.0),
    ),
    Target(
        "call that returns a string, a tensor, 100 strings, a map of 100",
        tuple(f"result/{kind}" for kind in ("string", "tensor", "array", "map")),
        *(DLOPEN, 1.1, 2.5),
    ),
    Target(
        "call of a function that was reloaded 1,000 times",
        ("call/reloaded",),
        *(NEVER_RELOADED, 1.02, 1.5),
    ),
    Target("load + look up + first call, C object", ("load/c",), DLOPEN, 0.7, 5.0),
    Target("load + look up + first call, C++ object", ("load/cpp",), DLOPEN, 1.5, 10.0),
    Target("load + look up + first call, C++ object", ("load/cpp",), PEER, 0.25, 0.9),
    Target("load + look up + first call, C++ object", ("link/cpp",), LINKED, 0.01, 0.05),
    Target(
        "one object, 3,200 function sections",
        ("load/sections",),
        PEER,
        0.2,
        0.5,
    ),
    Target(
        "one object, 3,200 function sections",
        ("llvm/sections",),
        "LLVM 23",
        1.2,
        2.0,
    ),
    Target(
        "256 KiB to 64 MiB of constants or data: load + call + drop",
        tuple(f"content/{kind}/{size}" for kind in CONTENTS for size in CONTENT_SIZES),
        *(PEER, 1.0, 2.0),
    ),
    Target(
        "256 KiB to 64 MiB of constants or data: load + call, all of it stays",
        tuple(f"content/{kind}/{size}/kept" for kind in CONTENTS for size in CONTENT_SIZES),
        *(PEER, 1.0, 4.0),
    ),
    Target(
        "an embedded module of 13 MiB: load + call + drop", ("embedded/load",), DLOPEN, 1.0, 2.0
    ),
    Target(
        "10,000 members of OpenBLAS's archive",
        ("archive/openblas",),
        *("gold -shared + dlopen", 0.5, 1.5),
    ),
    Target(
        "a throw through 11 frames, 5,000 modules loaded",
        ("among/throws/call",),
        *("10 modules", 1.5, 4.0),
        count=5000,
    ),
    Target(
        "an unload, 5,000 modules loaded",
        ("among/throws/unload",),
        *("10 modules", 1.5, 4.0),
        count=5000,
    ),
    Target(
        "a load with thread-local variables, 5,000 modules loaded",
        ("among/thread_local/load",),
        *("10 modules", 1.2, 4.0),
        count=5000,
    ),
    Target(
        "1,000 C++ objects, 2 threads",
        ("threads/cpp",),
        "1 thread",
        0.6,
        1.4,
        bound="no lock of the loader's is waited for, and no more instructions are executed: the "
        "interpreter's lock changes hands several times a load, and each time a thread is woken; "
        "threads/cpp also has two processes, which share nothing",
        count=1000,
    ),
    Target(
        "reload + call of a function that was handed out, C object; others load it anew",
        ("reload/c",),
        *(DLOPEN, 1.0, 5.0),
    ),
    Target(
        "1,000 trials of an autotuner",
        ("recipes/trials",),
        *(PROCESS_EACH, 0.02, 0.2),
        count=1000,
    ),
    Target(
        "a task of Dask with a kernel",
        ("recipes/dask/task",),
        *(NUMPY, 1.1, 4.0),
    ),
    Target(
        "1,000 objects sent to two workers of Dask, and called",
        ("recipes/dask/send",),
        *(LIBRARIES, 0.8, 4.0),
        count=1000,
    ),
    Target("new session", ("session/new",), PEER, 0.02, 0.1),
    Target("import, beyond import tvm_ffi", ("import/time",), PEER, 0.5, 1.5),
    Target(
        "resident memory a module",
        ("memory/c", "memory/cpp"),
        PEER,
        0.4,
        1.0,
        bound="16 kB of a C++ module are its own code and constants: 0.4 of the peer's memory",
    ),
    Target("wheel size", ("size/wheel",), PEER_WHEEL, 0.15, 0.5),
    Target(
        "time a load, last 1,000 of 50,000",
        ("long/cpp",),
        *("first 1,000", 1.05, 2.0),
        count=50_000,
    ),
)

WITHOUT_NAMES = "less what names take"

# Instructions of one operation, this package's divided by another's: operation -> the other, and
# the largest ratio. Loads are bounded against the peer: much of dlopen's work is the kernel's,
# which callgrind does not see. What it costs a load that its code has names by address is bounded
# against the same load, without the instructions that collect them and drop them with the load.
CALLGRIND = {
    "call": (DLOPEN, 0.58),
    "call_kept": (DLOPEN, 0.45),
    "load_c": (PEER, 0.5),
    "load_cpp": (PEER, 0.3),
    "names_c": (WITHOUT_NAMES, 1.02),
    "names_cpp": (WITHOUT_NAMES, 1.02),
}


def judged(
    target: Target, rows: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, float]] | None:
    """Find the row that decides a target.

    Parameters
    ----------
    target
        The target.
    rows
        Row key -> record, as `bench.interleave.Row.record` makes them.

    Returns
    -------
    tuple or None
        The key of the row with the worst ratio, and that ratio's spread; None if none was measured.
    """
    measured = [
        (key, dict(rows[key]["ratios"][target.against]))
        for key in target.rows
        if key in rows and target.against in rows[key]["ratios"]
    ]
    return max(measured, key=lambda pair: pair[1]["median"], default=None)
