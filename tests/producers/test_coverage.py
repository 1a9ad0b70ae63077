# SPDX-License-Identifier: Apache-2.0
"""Objects that count what is executed: the files written are those of the dlopened library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tvm_ffi import libinfo

from compilation import CLANG, GCC, SOURCES, Toolchain

SOURCE = """
#include "safe_call.h"
static int64_t collatz(int64_t n) {
  int64_t steps = 0;
  while (n != 1) {
    if (n % 2) {
      n = 3 * n + 1;
    } else {
      n /= 2;
    }
    ++steps;
  }
  return steps;
}
EXPORT(steps) { RETURN(collatz(INT(0))); }
EXPORT(unused) { RETURN(0); }
"""
# How often the loop, its odd branch and its even branch are executed.
STEPS = 3 * 111 + 8
ODD = 3 * 41 + 2
SCRIPT = """
import sys
import tvm_ffi
import tvm_ffi_object_loader as tol
way, *files = sys.argv[1:]
if way == "dlopened":
    functions = tvm_ffi.load_module(files[0])
    print([functions.steps(n) for n in (27, 6, 27, 27)])
elif way == "until the end":
    functions = tol.load_module(files)
    print([functions.steps(n) for n in (27, 6, 27, 27)])
else:
    with tol.Session() as session:
        functions = session.load(files)
        print([functions["steps"](n) for n in (27, 6, 27, 27)])
"""
WAYS = ["until the end", "until closed"]


def run(way: str, *files: Path, **env: str) -> None:
    command = [sys.executable, "-c", SCRIPT, way, *map(str, files)]
    env = {**os.environ, **env}
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    assert result.stdout == "[111, 8, 111, 111]\n"


def built(folder: Path, toolchain: Toolchain, *flags: str) -> tuple[Path, Path]:
    """Return an object, and the library that the compiler links of it. Its name is in both."""
    (folder / "counted.c").write_text(SOURCE)
    includes = [f"-I{path}" for path in (SOURCES, *libinfo.include_paths())]
    for command in (
        ["-O0", "-fPIC", *includes, *flags, "-c", "counted.c", "-o", "counted.o"],
        ["-shared", *flags, "counted.o", "-o", "counted.so"],
    ):
        subprocess.run([toolchain.cc, *command], check=True, cwd=folder)
    return folder / "counted.o", folder / "counted.so"


def runtime(toolchain: Toolchain, name: str) -> Path:
    command = [toolchain.cc, f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():
        pytest.skip(f"{toolchain.cc} has no {name}")
    return path


@pytest.mark.parametrize("way", WAYS)
def test_gccs_counts(tmp_path: Path, way: str) -> None:
    path, library = built(tmp_path, GCC, "--coverage")

    def counts(way: str, *files: Path) -> bytes:
        folder = tmp_path / way
        run(way, *files, GCOV_PREFIX=str(folder), GCOV_PREFIX_STRIP="99")
        return (folder / "counted.gcda").read_bytes()

    found = counts(way, path, runtime(GCC, "libgcov.a"))
    assert found == counts("dlopened", library)
    (tmp_path / "counted.gcda").write_bytes(found)
    command = ["gcov", "--stdout", "counted.c"]
    said = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    lines = [line.split(":") for line in said.splitlines() if line.count(":") >= 2]
    executed = {number.strip(): count.strip() for count, number, *_ in lines}
    numbers = {number: executed[number] for number in ("7", "9", "11", "16")}
    assert numbers == {"7": str(ODD), "9": str(STEPS - ODD), "11": str(STEPS), "16": "#####"}


@pytest.mark.parametrize("way", WAYS)
def test_counts_add_up_over_runs(tmp_path: Path, way: str) -> None:
    """The second run merges its counts with those that the first left."""
    path, library = built(tmp_path, GCC, "--coverage")
    archive = runtime(GCC, "libgcov.a")
    for name, files in (("dlopened", [library]), (way, [path, archive])):
        env = {"GCOV_PREFIX": str(tmp_path / name), "GCOV_PREFIX_STRIP": "99"}
        run(name, *files, **env)
        once = (tmp_path / name / "counted.gcda").read_bytes()
        run(name, *files, **env)
        assert (tmp_path / name / "counted.gcda").read_bytes() != once
    merged = [(tmp_path / name / "counted.gcda").read_bytes() for name in ("dlopened", way)]
    assert merged[0] == merged[1]


@pytest.mark.parametrize("way", WAYS)
def test_clangs_counts(tmp_path: Path, way: str) -> None:
    if CLANG is None:
        pytest.skip("clang is not here")
    version = Path(CLANG.cc).name.partition("clang")[2]
    tools = [shutil.which(f"llvm-{tool}{version}") for tool in ("profdata", "cov")]
    if None in tools:
        pytest.skip(f"llvm-profdata{version} or llvm-cov{version} is not here")
    archive = runtime(CLANG, "libclang_rt.profile-x86_64.a")
    flags = ("-fprofile-instr-generate", "-fcoverage-mapping")
    path, library = built(tmp_path, CLANG, *flags)

    def counts(way: str, *files: Path) -> str:
        profile = tmp_path / f"{way}.profraw"
        run(way, *files, LLVM_PROFILE_FILE=str(profile))
        command = [str(tools[0]), "merge", "-text", str(profile)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    found = counts(way, path, archive)
    assert found == counts("dlopened", library)
    assert f"4\n{STEPS}\n{ODD}\n" in found
    merged = tmp_path / "merged.profdata"
    profile = tmp_path / f"{way}.profraw"
    subprocess.run([str(tools[0]), "merge", "-o", str(merged), str(profile)], check=True)
    source = str(tmp_path / "counted.c")
    command = [str(tools[1]), "show", f"-instr-profile={merged}", str(library), source]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.split("|") for line in said.splitlines() if line.count("|") >= 2]
    shown = {number.strip(): count.strip() for number, count, *_ in lines}
    assert (shown["7"], shown["9"], shown["16"]) == (str(ODD), str(STEPS - ODD), "0")
