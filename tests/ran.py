# SPDX-License-Identifier: Apache-2.0
"""Which interpreters, releases of tvm-ffi and systems the tests have passed on.

With ``RAN=FILE`` in the environment, a run that passes appends a line of JSON to the file
(``RAN_TESTS`` says which tests they were, where not all). ``python tests/ran.py FILE`` prints such
files' lines as a table, and what docs/installing.md claims beyond them; with ``--write`` they
become ``ran.jsonl`` here and the table there.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pytest
import tvm_ffi

sys.path.append(str(Path(__file__).parent / "helpers"))

from processors import EMULATED, PROCESSOR, X86_64
from tvm_ffi_object_loader import _native

PAGE = Path(__file__).parent.parent / "docs" / "installing.md"
RECORD = Path(__file__).with_suffix(".jsonl")
BEGIN, END = "<!-- what ran: begin -->\n", "<!-- what ran: end -->\n"

# Taken out of the environment: a pytest that a test starts is no run of its own.
_FILE = os.environ.pop("RAN", None)

Run = dict[str, str | int]


def _system() -> str:
    def version(*command: str) -> str:
        try:
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return "none"
        found = re.search(r"\d+\.\d+(\.\d+)?", text.partition("\n")[0].rpartition(")")[2])
        return found[0] if found else "of unknown version"

    name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    if PROCESSOR is not X86_64:
        name += f", {PROCESSOR.name}" + ", emulated" * EMULATED
    return (
        f"{name}: gcc {version('gcc', '--version')}, binutils {version('ld', '--version')}, "
        f"glibc {platform.libc_ver()[1]}"
    )


def this_run(passed: int, skipped: int) -> Run:
    """Return what this process's run is recorded as."""
    free_threaded = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return {
        "python": platform.python_version() + free_threaded,
        "tvm_ffi": tvm_ffi.__version__,
        "llvm": _native.llvm_version,
        "system": _system(),
        "tests": os.environ.get("RAN_TESTS", "all"),
        "passed": passed,
        "skipped": skipped,
    }


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Record the run."""
    # Processes of pytest-xdist have their part alone.
    if _FILE and exitstatus == 0 and not hasattr(config, "workerinput"):
        counts = (len(terminalreporter.stats.get(kind, ())) for kind in ("passed", "skipped"))
        with Path(_FILE).open("a") as record:
            record.write(json.dumps(this_run(*counts)) + "\n")


def read(files: Iterable[str | Path]) -> list[Run]:
    """Return the runs in the files, by their versions; of those alike, the last one."""
    lines = (line for file in files for line in Path(file).read_text().splitlines())
    runs = {(_of(run), run["tests"]): run for run in map(json.loads, lines)}

    def order(run: Run) -> list[list[int]]:
        return [[*map(int, re.findall(r"\d+", str(run[key])))] for key in ("python", "tvm_ffi")]

    return sorted(runs.values(), key=order)


def _of(run: Run) -> tuple[str, ...]:
    def series(key: str) -> str:
        return re.sub(r"^(\d+\.\d+)[\d.]*", r"\1", str(run[key]))

    return series("python"), str(run["tvm_ffi"]), series("llvm"), str(run["system"]).split(":")[0]


def table(runs: Iterable[Run]) -> str:
    """Return the runs as a Markdown table."""
    lines = ["| CPython | apache-tvm-ffi | LLVM | on | tests | passed |", "| --- " * 6 + "|"]
    for run in runs:
        cells = [run[key] for key in ("python", "tvm_ffi", "llvm", "system", "tests", "passed")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def committed() -> str:
    """Return the table in PAGE."""
    return PAGE.read_text().split(BEGIN)[1].split(END)[0]


def main(arguments: list[str]) -> None:
    """Print the table of the files' runs, or write it into PAGE."""
    runs = read(file for file in arguments if file != "--write")
    if "--write" in arguments:
        RECORD.write_text("".join(json.dumps(run) + "\n" for run in runs))
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + table(runs) + END + rest.partition(END)[2])
        return
    print(table(runs), end="")
    ran = {_of(run) for run in runs}
    for run in read([RECORD]):
        if _of(run) not in ran:
            print("not run here:", *_of(run))


if __name__ == "__main__":
    main(sys.argv[1:])
