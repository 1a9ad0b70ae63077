# SPDX-License-Identifier: Apache-2.0
"""The rooms of native/ depend on each other, and on other projects, in one direction only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from folders import ROOT

NATIVE = ROOT / "native"
# What each room includes, beside itself and what those include.
ROOMS = {
    "base": [],
    "os": ["base"],
    "object": ["base"],
    "target": ["object"],
    "link": ["target", "os"],
    "support": ["object"],
    "session": ["link", "support"],
    "ffi": ["session"],
    "python": ["ffi"],
}
SUFFIXES = {".h", ".cc", ".c"}

pytestmark = pytest.mark.skipif(not NATIVE.is_dir(), reason="the project's sources are not here")


def files() -> list[Path]:
    return sorted(path for path in NATIVE.rglob("*") if path.suffix in SUFFIXES)


def room(path: Path) -> str:
    return path.relative_to(NATIVE).parts[0]


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def below(name: str) -> set[str]:
    """Return the rooms that this one may include: itself, and all that those above name."""
    return {name}.union(*(below(other) for other in ROOMS[name]))


def breaches(allowed: set[str], pattern: str) -> list[str]:
    """Return the includes that match `pattern` in files of rooms other than `allowed`."""
    return [
        f"{path.relative_to(NATIVE)}: {name}"
        for path in files()
        for name in includes(path)
        if re.match(pattern, name) and room(path) not in allowed
    ]


def mentions(allowed: set[str], pattern: str) -> list[str]:
    """Return the rooms' lines that match `pattern` in rooms other than `allowed`."""
    return [
        f"{path.relative_to(NATIVE)}: {line.strip()}"
        for path in files()
        for line in path.read_text().splitlines()
        if re.search(pattern, line) and room(path) not in allowed
    ]


def test_every_file_has_a_room() -> None:
    assert {path.relative_to(NATIVE).parts[0] for path in files()} == set(ROOMS)
    assert all(len(path.relative_to(NATIVE).parts) > 1 for path in files())


def test_a_room_includes_only_those_below() -> None:
    own = {str(path.relative_to(NATIVE)) for path in files()}
    wrong = [
        f"{path.relative_to(NATIVE)} includes {name}"
        for path in files()
        for name in includes(path)
        if name in own and Path(name).parts[0] not in below(room(path))
    ]
    assert wrong == []


def test_own_headers_are_included_by_their_path_from_native() -> None:
    own = {str(path.relative_to(NATIVE)) for path in files()}
    for path in files():
        local = re.findall(r'#\s*include\s*"([^"]+)"', path.read_text())
        assert [name for name in local if name not in own] == []


def test_only_one_room_knows_the_operating_system() -> None:
    assert breaches({"os"}, r"sys/|linux/|dlfcn\.h|link\.h") == []


def test_only_one_room_knows_the_processor() -> None:
    assert mentions({"target"}, r"\bR_(X86_64|AARCH64)_|\bEM_(X86_64|AARCH64)\b") == []
    assert breaches({"target"}, r".*/JITLink/(ELF_)?(x86_64|aarch64)\.h") == []
    assert mentions({"target", "support"}, r"^\s*#\s*(el)?if.*__(x86_64|aarch64)__") == []


def test_objects_are_read_without_jitlink() -> None:
    assert breaches({"target", "link", "session"}, r"llvm/ExecutionEngine/JITLink/") == []
    assert [line for line in breaches({"os"}, r"llvm/ExecutionEngine/") if "object/" in line] == []


def test_only_the_upper_rooms_include_tvm_ffi_and_python() -> None:
    assert breaches({"ffi", "python"}, r"tvm/|dlpack/|tvm_ffi") == []
    assert breaches({"python"}, r"Python\.h|nanobind/|cpython/|py\w*\.h") == []


def test_only_one_file_asks_for_the_version_of_llvm() -> None:
    asking = {line.split(":")[0] for line in mentions(set(), r"^\s*#\s*(el)?if.*\bLLVM_VERSION")}
    assert asking <= {"link/linker.cc"}


def test_nothing_writes_into_an_input() -> None:
    reading = [path for path in files() if room(path) == "object"]
    for path in reading:
        assert "const_cast" not in path.read_text(), path.name


def test_every_room_says_what_lives_there() -> None:
    for name in ROOMS:
        text = (NATIVE / name / "README.md").read_text()
        assert text.startswith(f"# {name}/\n"), name


def test_files_are_licensed() -> None:
    for path in files():
        assert "SPDX-License-Identifier: Apache-2.0" in path.read_text().splitlines()[0], path.name
