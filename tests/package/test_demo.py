# SPDX-License-Identifier: Apache-2.0
"""The command line: the demo, and what it says where it cannot work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import tvm_ffi_object_loader as tol


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_ffi_object_loader", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_demo_compiles_loads_and_calls() -> None:
    result = run("demo")
    assert (result.returncode, result.stderr) == (0, "")
    for named in ("math_ops", "string_ops", "simple_add(1, 2) = 3", "string_concat("):
        assert named in result.stdout
    assert result.stdout.index("math_ops") < result.stdout.index("string_ops")
    steps = [line for line in result.stdout.splitlines() if re.search(r"\d ms$", line)]
    assert len(steps) >= 8
    for step in ("compile", "load", "look up", "call"):
        assert sum(line.split("  ")[1].strip() == step for line in steps) >= 2, step


def test_the_demo_without_a_compiler_says_so_in_one_line(tmp_path: Path) -> None:
    result = run("demo", PATH=str(tmp_path), CXX="", CC="")
    assert result.returncode not in (0, 1)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "C++ compiler" in result.stderr


def test_the_demo_with_a_compiler_that_does_not_exist_names_it() -> None:
    result = run("demo", CXX="no-such-compiler-anywhere")
    assert result.returncode not in (0, 1)
    assert len(result.stderr.splitlines()) == 1
    assert "no-such-compiler-anywhere" in result.stderr


def test_the_demo_with_a_compiler_that_fails_shows_its_message(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'this compiler is broken' >&2\nexit 3\n")
    compiler.chmod(0o755)
    result = run("demo", CXX=str(compiler))
    assert result.returncode == 1
    assert "this compiler is broken" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_command_the_usage_is_printed() -> None:
    result = run()
    assert result.returncode == 2
    assert "usage:" in result.stderr
    assert "Traceback" not in result.stderr


def test_version_and_help() -> None:
    assert tol.__version__ in run("--version").stdout
    assert "demo" in run("--help").stdout


def test_the_shipped_sources_are_there() -> None:
    demo = Path(tol.__file__).parent / "demo"
    assert {path.name for path in demo.glob("*.cc")} == {"math_ops.cc", "string_ops.cc"}
