# SPDX-License-Identifier: Apache-2.0
"""tests/foreign/run.py compares programs after loading with the same as shared libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from folders import TESTS

pytestmark = pytest.mark.slow
SCRIPT = TESTS / "foreign" / "run.py"
PROGRAMS = {
    "passes.c": "#include <stdlib.h>\nint table[3] = {1, 2};\n"
    "int main(int argc, char** argv) { if (argc == 1 && !argv[1] && table[1] == 2) exit(0); }\n",
    "aborts.c": "#include <stdlib.h>\nint main(void) { abort(); }\n",
    # Its output is complete only if stdio is flushed; and main returns 0 without saying so.
    "prints.c": '#include <stdio.h>\nint main() { printf("%s\\n%d", "some text", 42); }\n',
}
# Loads nothing: every program ends with 1 and prints nothing.
FAKE = """
class Module:
    def run_program(self):
        return 1

def load_module(objects):
    return Module()
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, source in PROGRAMS.items():
        (folder / name).write_text(source)
    (folder / "prints.c.expected").write_text("some text\n42\n")
    return folder


def run(folder: Path, *options: object, path: Path | None = None) -> tuple[int, list[str]]:
    """Run the script; return its status, and what it printed but for how many fail."""
    result = subprocess.run(
        [sys.executable, SCRIPT, folder, "--jobs", "2", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


@pytest.mark.parametrize("option", ["--jobs=1", "--keep-main"])
def test_the_same_programs_are_equal(programs: Path, option: str) -> None:
    status, lines = run(programs, option, "--flags=-O2 -fPIC", "--flags=-O0 -fno-pic")
    assert lines == [
        "-O2 -fPIC: 3 equal; 1 fail in a library",
        "-O0 -fno-pic: 3 equal; 1 fail in a library",
    ]
    assert status == 0


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Return the folder of a loader that loads nothing."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "fake_loader.py").write_text(FAKE)
    return folder


def test_differences_are_told(programs: Path, fake: Path) -> None:
    status, lines = run(programs, "--loader=fake_loader", path=fake)
    assert lines == [
        "different: aborts.c -O2 -fPIC: SIGABRT in a library, but exit 1",
        "different: passes.c -O2 -fPIC: exit 0 in a library, but exit 1",
        "different: prints.c -O2 -fPIC: exit 0 in a library, but exit 1",
        "-O2 -fPIC: 3 different; 1 fail in a library",
    ]
    assert status == 1


def test_a_difference_of_the_output_is_told(programs: Path, fake: Path) -> None:
    (fake / "fake_loader.py").write_text(FAKE.replace("return 1", "return 0"))
    status, lines = run(programs, "--loader=fake_loader", "--only=prints.c", path=fake)
    assert lines[0].endswith("line 1 of stdout: b'some text' in a library, but None")
    assert status == 1


def test_an_error_of_the_loader_is_told(programs: Path, fake: Path) -> None:
    (fake / "fake_loader.py").write_text("def load_module(objects):\n    raise OSError('no')\n")
    status, lines = run(programs, "--loader=fake_loader", "--only=passes.c", path=fake)
    assert lines[0].endswith("exit 0 in a library, but refused: OSError: no")
    assert status == 1


def test_known_differences(programs: Path, fake: Path, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    expected.write_text("# known\npa*.c the reason\nprints.c\naborts.c\nother.c was fixed\n")
    status, lines = run(programs, "--loader=fake_loader", "--expected", expected, path=fake)
    assert (
        "known to differ: passes.c -O2 -fPIC: exit 0 in a library, but exit 1 (the reason)" in lines
    )
    assert "no longer differs: other.c" in lines
    assert status == 0


def test_programs_that_cannot_be_compared(programs: Path) -> None:
    (programs / "aborts.c").write_text("int main(void) { return }\n")
    (programs / "passes.c").write_text("int nowhere(void);\nint main(void) { return nowhere(); }\n")
    (programs / "prints.c").write_text(
        '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%d", getpid()); }\n'
    )
    status, lines = run(programs)
    assert [line.split(" -O2")[0] for line in lines[:3]] == [
        "not compiled or linked: aborts.c",
        "not compiled or linked: passes.c",
        "never twice the same: prints.c",
    ]
    assert status == 0


def test_programs_that_hang_are_ended(programs: Path) -> None:
    (programs / "passes.c").write_text("int main(void) { for (;;); }\n")
    status, lines = run(programs, "--timeout=0.3", "--only=passes.c")
    assert lines == ["-O2 -fPIC: 1 equal; 1 fail in a library"]
    assert status == 0


def test_options_in_comments_are_heeded(programs: Path) -> None:
    (programs / "passes.c").write_text(
        '/* { dg-options "-DRESULT=3 -w" } */\n'
        '/* { dg-additional-options { "-DOTHER=4" } } */\n'
        '/* { dg-options "-DOTHER=5" { target arm*-*-* } } */\n'
        "int main(void) { return RESULT + OTHER - 7; }\n"
    )
    assert run(programs, "--only=passes.c") == (0, ["-O2 -fPIC: 1 equal; 0 fail in a library"])
