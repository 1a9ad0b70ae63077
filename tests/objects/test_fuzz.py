# SPDX-License-Identifier: Apache-2.0
"""No mutant of an object or an archive kills the process: it loads, or it is refused.

Nor does it change what is loaded already. ``tests/fuzz/by_hand.py`` loads more of them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from folders import TESTS

sys.path.append(str(TESTS / "fuzz"))

import tvm_ffi_object_loader as tol
from compilation import Compiler
from elf_image import runs_code
from mutate import mutant
from seeds import build

FUZZ = TESTS / "fuzz"
MUTANTS = int(os.environ.get("FUZZ_MUTANTS", "1500"))
MEMORY = 1 << 30  # bytes that loading may take beyond what the process starts with


@pytest.fixture(scope="module")
def corpus(compile: Compiler, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the object to load as it is, and those to mutate."""
    return build(compile, tmp_path_factory.mktemp("corpus"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_mutants_load_or_are_refused(corpus: list[Path], tmp_path: Path, seed: int) -> None:
    progress = tmp_path / "progress"
    result = subprocess.run(
        [sys.executable, FUZZ / "load_mutants.py", str(seed), str(MUTANTS), *corpus],
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


@pytest.mark.slow
def test_a_mutant_is_made_from_its_number_alone(corpus: list[Path]) -> None:
    seeds = [path.read_bytes() for path in corpus]
    first = [mutant(seeds, 1, number) for number in range(300)]
    assert [mutant(seeds, 1, number) for number in reversed(range(300))] == first[::-1]
    assert {index for index, _ in first} == set(range(len(seeds)))
    assert sum(content != seeds[index] for index, content in first) > 250


@pytest.mark.parametrize(
    "code",
    [
        "__attribute__((constructor)) static void f(void) { ++n; }",
        "__attribute__((destructor)) static void f(void) { ++n; }",
        '__attribute__((section(".ctors"), used)) static void (*f)(void) = 0;',
        '__attribute__((section(".dtors.00010"), used)) static void (*f)(void) = 0;',
        '__attribute__((section(".init"), used)) static void f(void) { ++n; }',
        '__attribute__((section(".fini"), used)) static void f(void) { ++n; }',
        '__asm__(".section other, \\"aw\\", @init_array\\n.quad 0\\n");',
        '__asm__(".section other, \\"aw\\", @fini_array\\n.quad 0\\n");',
        '__asm__(".section other, \\"aw\\", @preinit_array\\n.quad 0\\n");',
        'static int (*g(void))(void) { return 0; } int f(void) __attribute__((ifunc("g")));',
    ],
)
def test_what_runs_code_is_told(compile: Compiler, tmp_path: Path, code: str) -> None:
    plain = compile("int n;\n")
    running = compile(f"int n;\n{code}\n")
    archive = tmp_path / "archive.a"
    subprocess.run(["ar", "rc", archive, plain, running], check=True)
    assert not runs_code(plain.read_bytes())
    assert runs_code(running.read_bytes())
    assert runs_code(archive.read_bytes())


def test_the_witness_tells_what_has_changed(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(compile.cxx((FUZZ / "corpus.cc").read_text(), "-O1", "-fPIC"))
    dylib["fill_guard"](7)
    assert dylib["changes"](7) == 0
    ctypes.c_char.from_address(dylib.lookup("guard") + 3000).value = b"\x55"
    assert dylib["changes"](7) == 1
    dylib["fill_guard"](7)
    ctypes.c_int.from_address(dylib.lookup("counter")).value = 1
    assert dylib["changes"](7) == 1
