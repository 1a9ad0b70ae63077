# SPDX-License-Identifier: Apache-2.0
"""Measure what docs/ shows: in a process of its own, which imports the files that a page has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import objects

ROOT = Path(__file__).parents[1]
HEADERS = "#include <tvm/ffi/container/tensor.h>\n#include <tvm/ffi/function.h>\n"
FILE = re.compile(r"^```python\n(# [\w.]+\n.*?)^```$", re.DOTALL | re.MULTILINE)


def ask(module: str, page: str, *arguments: object) -> Any:
    """Run a module of bench/ in a fresh process, with the files of a page of docs/.

    Parameters
    ----------
    module
        Name of the module, which prints one JSON value.
    page
        Name of the page, without a suffix.
    *arguments
        The module's arguments.

    Returns
    -------
    object
        What it printed.

    Raises
    ------
    RuntimeError
        With the last lines of stderr, if the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for block in re.findall(
            r"^```python\n(# [\w.]+\n.*?)^```$", text, re.DOTALL | re.MULTILINE
        ):
            Path(folder, block.split()[1]).write_text(block)
        # tvm_ffi imports torch where it is installed: seconds a process, and nothing here uses it.
        Path(folder, "torch.py").write_text("raise ImportError\n")
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{module}", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"exit status {done.returncode}: {last}")
    return json.loads(done.stdout)


def compile_source(source: str, function: str) -> Path:
    """Return the object of a C++ source as pages have it, which exports a function."""
    export = f"\nTVM_FFI_DLL_EXPORT_TYPED_FUNC({function}, {function});\n"
    return objects.compile_cpp(HEADERS + source + export, function)
