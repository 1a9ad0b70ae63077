# SPDX-License-Identifier: Apache-2.0
"""What a type checker sees of the package."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol

GOOD = """
import pathlib
import tvm_ffi
import tvm_ffi_object_loader as tol

with tol.Session("s") as session:
    base: tol.Dylib = session.create_dylib("base")
    base.load("a.o")
    base.load([pathlib.Path("b.o"), b"bytes", bytearray(), memoryview(b"")])
    app = session.load("c.o", name="app", link_order=[base])
    function: tvm_ffi.Function = app["f"]
    address: int = app.lookup("symbol")
    names: list[str] = app.functions
    module: tvm_ffi.Module = session.load_module(("a.o", b"x"))
    dylibs: dict[str, tol.Dylib] = session.dylibs
    stats: tol.SessionStats = session.stats()
    holders: tol.Holders = app.stats().held_by
loader: tol.ObjectLoader = tol.ObjectLoader().load("a.o").load(b"x")
tol.load_module("a.o").get_function("f")
cache: tol.ObjectCache = tol.ObjectCache(pathlib.Path("c"), max_bytes=None, frozen=True)
key: str = tol.object_key("source", ["-O2"], pathlib.Path("a.cc"), {"arch": None})
compiled: bytes = cache.get_or_compile(key, lambda: bytearray())
found: bytes | None = cache.get(key)
figures: dict[str, int] = cache.stats().as_dict()
session.load(compiled)
try:
    pass
except tol.UndefinedSymbolError as error:
    symbols: tuple[str, ...] = error.symbols
"""
BAD = """
import tvm_ffi_object_loader as tol

session = tol.Session(5)
dylib = session.load(None)
dylib.lookup(b"x")
dylib.add
session.create_dylib(link_order=[5])
tol.ObjectCache(max_bytes="5")
tol.absent
"""

# mypy finds what is installed, and refuses to be told where.
FOLDER = Path(tol.__file__).parent.parent
IS_INSTALLED = str(FOLDER) in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
CONFIG = "[mypy]\nstrict = True\n" + ("" if IS_INSTALLED else f"mypy_path = {FOLDER}\n")


def test_a_type_checker_accepts_the_right_and_refuses_the_wrong(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "good.py", "bad.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    wrong = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert [line for line in wrong if not line.startswith("bad.py")] == []
    assert sorted({int(line.split(":")[1]) for line in wrong}) == [4, 5, 6, 7, 8, 9, 10]


PROGRAMS = Path(__file__).parent / "programs"


def test_the_programs_use_every_public_name() -> None:
    text = "".join(path.read_text() for path in PROGRAMS.glob("*.py"))
    assert set(re.findall(r"\btol\.(\w+)", text)) == set(tol.__all__)


def test_mypy_accepts_the_programs(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), str(PROGRAMS)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def pyright(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyright", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_pyright_accepts_the_programs_and_refuses_the_wrong(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    if pyright("--version").returncode != 0:
        pytest.skip("pyright cannot fetch its Node.js package, or has no Node.js")
    (tmp_path / "bad.py").write_text(BAD)
    # It checks what lies in the project's folder, and ignores absolute paths.
    shutil.copytree(PROGRAMS, tmp_path / "programs")
    config = {
        "extraPaths": [str(Path(tol.__file__).parent.parent)],
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
        "reportMissingModuleSource": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    result = pyright("--outputjson", "--pythonpath", sys.executable, "--project", tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr  # since there are errors
    checked = json.loads(result.stdout)
    assert checked["summary"]["filesAnalyzed"] == 1 + len(list(PROGRAMS.glob("*.py")))
    wrong = [
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1, found["message"])
        for found in checked["generalDiagnostics"]
        if found["severity"] == "error"
    ]
    assert [found for found in wrong if found[0] != "bad.py"] == []
    assert sorted({line for _, line, _ in wrong}) == [4, 5, 6, 7, 8, 9, 10]
