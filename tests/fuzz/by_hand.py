# SPDX-License-Identifier: Apache-2.0
"""Load many mutants in several processes, and tell of all that kill one: ``by_hand.py``.

``python tests/fuzz/by_hand.py --mutants 200000 --processes 2`` takes some minutes. A process that
dies, hangs or finds that another module has changed goes on with the next mutant; the culprit is
named, tried alone and, with ``--keep FOLDER``, kept with the seeds. The exit status is 1 if there
was one.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "helpers"))

from compilation import Compiler
from mutate import mutant
from seeds import build

SCRIPT = Path(__file__).with_name("load_mutants.py")
CHUNK = 5000  # so many mutants a process: what went before a culprit is bounded
MEMORY = 1 << 30  # bytes, as in test_fuzz.py


class Run:
    """A run of all mutants of one seed."""

    def __init__(self, seed: int, objects: list[Path], folder: Path) -> None:
        self._seed = seed
        self._objects = objects
        self._contents = [path.read_bytes() for path in objects[1:]]
        self._folder = folder

    def load(self, first: int, count: int) -> tuple[int, str]:
        """Load mutants: return how many of them loaded, or the culprit and how it ended."""
        command = [sys.executable, str(SCRIPT), str(self._seed), str(count)]
        progress = self._folder / f"progress-{first}"
        try:
            result = subprocess.run(
                [*command, *map(str, self._objects)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=60 + count / 10,
                env={
                    **os.environ,
                    "FUZZ_FIRST": str(first),
                    "FUZZ_PROGRESS": str(progress),
                    "MALLOC_PERTURB_": "165",  # what is read after it was freed is not what it was
                },
            )
        except subprocess.TimeoutExpired:
            return int(progress.read_text()), "hangs"
        if (result.returncode, result.stderr) == (0, ""):
            return int(result.stdout), ""
        ended = f"ends with {result.returncode}"
        if result.returncode < 0:
            ended = signal.Signals(-result.returncode).name
        return int(progress.read_text()), f"{ended}\n{result.stderr[-1500:]}".rstrip()

    def load_all(self, first: int, count: int) -> Iterator[str]:
        """Load mutants in spite of culprits; yield what is to be said of these."""
        end = first + count
        while first < end:
            size = min(CHUNK, end - first)
            number, ended = self.load(first, size)
            if not ended:
                print(f"{first} to {first + size}: {number} loaded", flush=True)
                first += size
                continue
            _, alone = self.load(number, 1)
            index, content = mutant(self._contents, self._seed, number)
            origin = self._objects[1 + index]
            (self._folder / f"culprit-{self._seed}-{number}").write_bytes(content)
            yield (
                f"seed {self._seed}, mutant {number}, of {origin.name}: {ended}\n"
                f"{'alone too' if alone else 'not alone'}: "
                f"--seed {self._seed} --first {number} --mutants 1 --processes 1"
            )
            first = number + 1


def main() -> int:
    """Parse the command line and share the mutants out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutant")
    parser.add_argument("--keep", type=Path, help="an empty folder for seeds and culprits")
    parser.add_argument(
        "--memory", type=int, default=MEMORY, help="limit in bytes; 0 for none, with sanitizers"
    )
    options = parser.parse_args()
    if options.memory:  # of this process, which the others inherit
        resource.setrlimit(resource.RLIMIT_DATA, (options.memory, options.memory))
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(options.seed, build(Compiler(folder), folder), folder)
        share = -(-options.mutants // options.processes)

        def work(number: int) -> int:
            culprits = 0
            for text in run.load_all(options.first + number * share, share):
                print(text, flush=True)
                culprits += 1
            return culprits

        with ThreadPoolExecutor(options.processes) as executor:
            culprits = sum(executor.map(work, range(options.processes)))
    print(f"{culprits} culprits")
    return 1 if culprits else 0


if __name__ == "__main__":
    sys.exit(main())
