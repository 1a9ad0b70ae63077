# SPDX-License-Identifier: Apache-2.0
"""Load mutants until one kills the process: ``load_mutants.py SEED COUNT THROWER FILE...``.

The files are objects and archives. None of the objects has initializers, and mutants with a
function that chooses its implementation are left out, so no mutated code runs. What loads is
unloaded again, and before that an exception is thrown and caught, so that the unwinder reads the
mutant's records. The number of each mutant is printed before it is loaded, so that the last one
printed is the culprit.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from mutate import has_resolvers, mutants

import tvm_ffi_object_loader as tol


def main(seed: int, count: int, thrower: str, *files: str) -> None:
    """Load `count` mutants and print how many of them were loaded."""
    progress = os.open(os.environ["FUZZ_PROGRESS"], os.O_WRONLY | os.O_CREAT, 0o600)
    session = tol.Session()
    throw_and_catch = session.load(thrower)["throw_and_catch"]
    loaded = 0
    seeds = [Path(name).read_bytes() for name in files]
    for number, mutant in enumerate(itertools.islice(mutants(seeds, seed), count)):
        if has_resolvers(mutant):
            continue
        os.pwrite(progress, b"%d\n" % number, 0)
        try:
            dylib = session.load(mutant, whole_archive=number % 2 == 0)
        except (tol.ObjectLoaderError, MemoryError):
            continue
        loaded += 1
        assert throw_and_catch(1) == 42
        dylib.close()
    print(loaded, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
