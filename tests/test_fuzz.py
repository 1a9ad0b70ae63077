# SPDX-License-Identifier: Apache-2.0
"""No mutant of an object or an archive kills the process: it loads, or it is refused."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from compilation import GCC, TOOLCHAINS, Compiler

FUZZ = Path(__file__).parent / "fuzz"
MUTANTS = int(os.environ.get("FUZZ_MUTANTS", "1500"))
MEMORY = 1 << 30  # bytes that loading may take beyond what the process starts with


@pytest.fixture(scope="module")
def corpus(compile: Compiler, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    source = (FUZZ / "corpus.cc").read_text()
    variants = [("-O2", "-fPIC"), ("-O0", "-g", "-gz", "-fPIC", "-ffunction-sections")]
    objects = [
        compile.cxx(source, *flags, toolchain=toolchain)
        for toolchain in TOOLCHAINS
        for flags in variants
    ]
    for path in objects:
        sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True).stdout
        assert ".init_array" not in sections
    archives = []
    for number, path in enumerate(objects):
        archives.append(tmp_path_factory.mktemp("archive") / "corpus.a")
        helpers = [compile(f"int helper{n}(void) {{ return {n}; }}\n") for n in range(number)]
        subprocess.run(["ar", "rc", archives[-1], *helpers, path], check=True)
    return objects + archives


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_mutants_load_or_are_refused(
    corpus: list[Path], compile: Compiler, tmp_path: Path, seed: int
) -> None:
    thrower = compile.cxx((FUZZ / "corpus.cc").read_text(), "-O1", "-fPIC", toolchain=GCC)
    progress = tmp_path / "progress"
    result = subprocess.run(
        [sys.executable, FUZZ / "load_mutants.py", str(seed), str(MUTANTS), thrower, *corpus],
        capture_output=True,
        text=True,
        timeout=60 + MUTANTS / 10,
        env={**os.environ, "FUZZ_PROGRESS": str(progress)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)),
    )
    where = f"seed {seed}, mutant {progress.read_text().strip()}"
    assert (result.returncode, result.stderr) == (0, ""), where + result.stderr
    # Neither everything nor nothing: the mutants are neither harmless nor all nonsense.
    assert MUTANTS / 20 < int(result.stdout) < MUTANTS * 0.9
