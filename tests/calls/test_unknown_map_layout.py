# SPDX-License-Identifier: Apache-2.0
"""With a tvm-ffi whose maps are laid out in another way than the one that was built against."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript
from folders import HELPERS


@pytest.mark.slow
def test_objects_that_are_handed_out(tmp_path: Path) -> None:
    """The tests of those that keep their code, but where that is kept for good: see below."""
    files = [
        str(Path(__file__).with_name(name)) for name in ("test_handed_out.py", "test_objects.py")
    ]
    options = ["-q", "-p", "no:cacheprovider", "-p", "unknown_map_layout", "-p", "no:xdist"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", "not dict and not thousands", *files],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")]),
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ffi.MapSize was called: True" in result.stdout


DICT = """
import gc, sys
import unknown_map_layout
import tvm_ffi
import tvm_ffi_object_loader as tol

session = tol.Session()
for count in (1, 3, 5, 200):
    given = tvm_ffi.Dict({})
    dylib = session.load(sys.argv[1])
    dylib["fill"](given, count)
    dylib["set"](given, "key", 5)
    dylib.close()
    del dylib
    gc.collect()
    assert given["key"].endswith("too long to be a value 5")
    del given["key"]
    assert sorted(given.items()) == [(i, i) for i in range(count)]
    for i in range(count, 3 * count):
        given[i] = i
    assert len(given) == 3 * count
    del given
    gc.collect()
assert unknown_map_layout.calls["ffi.DictSize"] > 0
# Whether a table is of its own making can't be told.
assert session.stats().retained == 4
dylib = session.load(sys.argv[1])
given = tvm_ffi.List([])
dylib["append"](given, 5)
dylib.close()
del dylib, given
gc.collect()
assert session.stats().retained == 4
session.close()
print("done")
"""


@pytest.mark.slow
def test_what_was_given_a_dict_stays(compile: Compiler, run_script: RunScript) -> None:
    handing_out = compile.cxx(
        "handing_out.cc", "-O1", "-fPIC", '-DTYPE_KEY="testing.unknown_map_layout.Pair"'
    )
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    assert run_script(DICT, handing_out, PYTHONPATH=path) == "done\n"
