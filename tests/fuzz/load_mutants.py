# SPDX-License-Identifier: Apache-2.0
"""Load mutants until one kills the process: ``load_mutants.py SEED COUNT THROWER FILE...``.

The files are objects and archives; mutants of a thin archive are written beside it. None of the
objects has initializers, and mutants that have come to have something that runs by itself are left
out, so no mutated code runs. Mutants are loaded from bytes and from files, with whole archives or
not, alone or together with an object that defines the same. What loads is unloaded again, and
before that an exception is thrown and caught, so that the unwinder reads the mutant's records. The
object THROWER, made of corpus.cc, is loaded as it is: whatever the mutants do, its results and its
data stay what they were.

Two variables of the environment:

FUZZ_PROGRESS
    A file for the number of the mutant, which is written before it is loaded, so that the last one
    written is the culprit.
FUZZ_FIRST
    The number of the first mutant, 0 if there is none. What a mutant is depends on SEED, its number
    and the files alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import tvm_ffi_object_loader as tol
from elf_image import runs_code, weakened
from mutate import mutant
from mutate_archive import is_thin

# After so many mutants the witness in the midst of them is loaded anew.
PERIOD = 50
SIZES = ("dylibs", "objects", "symbols", "bytes_code", "bytes_data")


class Witness:
    """A good module, which tells whether anything of it has changed."""

    def __init__(self, session: tol.Session, path: str, key: int) -> None:
        self._dylib = session.load(path)
        self._key = key
        self._dylib["fill_guard"](key)
        self.check()

    def check(self) -> None:
        """Throw an exception and catch it, and look at the module's data."""
        assert self._dylib["throw_and_catch"](1) == 42
        changes = self._dylib["changes"](self._key)
        assert changes == 0, f"{changes} words or results of another module have changed"

    def close(self) -> None:
        self._dylib.close()


def writable_code() -> int:
    """Return how many mappings of the process are both writable and executable."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("wx" in line.split()[1] for line in lines)


class Mutants:
    """Loads mutants in one session, between modules that must not notice."""

    def __init__(self, thrower: str, files: list[str], folder: Path) -> None:
        self._thrower = thrower
        self._files = files
        self._session = tol.Session()
        self._first = Witness(self._session, thrower, 1)
        self._second = Witness(self._session, thrower, 2)
        self._sizes = self._measure()
        self._writable_code = writable_code()
        self._companion = weakened(Path(thrower).read_bytes())
        self._plain = folder / "mutant.o"
        self._thin = {
            number: Path(name).with_name(f"mutant-{os.getpid()}.a")
            for number, name in enumerate(files)
            if is_thin(Path(name).read_bytes())
        }
        self.loaded = 0

    def _measure(self) -> list[int]:
        stats = self._session.stats().as_dict()
        return [stats[size] for size in SIZES]

    def load(self, number: int, index: int, content: bytes) -> None:
        """Load a mutant of the file of this index, and see that nothing else has changed."""
        objects: list[bytes | Path] = [content]
        if index in self._thin or number % 4 < 2:
            path = self._thin.get(index, self._plain)
            path.write_bytes(content)
            objects = [path]
        if number % 3 == 0:
            objects.insert(number % 2, self._companion)
        try:
            dylib = self._session.load(objects, whole_archive=number % 2 == 0)
        except (tol.ObjectLoaderError, MemoryError, OSError):
            self._first.check()
        else:
            self.loaded += 1
            self._first.check()
            self._second.check()
            if self.loaded % PERIOD == 0:
                assert writable_code() == self._writable_code, "memory is writable and executable"
            dylib.close()
        if number % PERIOD == 0:
            self._second.check()
            self._second.close()
            self._second = Witness(self._session, self._thrower, number)
            assert self._measure() == self._sizes, "something is left of a mutant"

    def close(self) -> None:
        """Look at the witnesses for the last time, and unload them."""
        for witness in (self._first, self._second):
            witness.check()
            witness.close()
        for path in self._thin.values():
            path.unlink(missing_ok=True)


def main(seed: int, count: int, thrower: str, *files: str) -> None:
    """Load `count` mutants and print how many of them were loaded."""
    progress = os.open(os.environ["FUZZ_PROGRESS"], os.O_WRONLY | os.O_CREAT, 0o600)
    first = int(os.environ.get("FUZZ_FIRST", "0"))
    contents = [Path(name).read_bytes() for name in files]
    with tempfile.TemporaryDirectory() as folder:
        mutants = Mutants(thrower, list(files), Path(folder))
        for number in range(first, first + count):
            index, content = mutant(contents, seed, number)
            if runs_code(content):
                continue
            os.pwrite(progress, b"%d\n" % number, 0)
            mutants.load(number, index, content)
        mutants.close()
    print(mutants.loaded, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
