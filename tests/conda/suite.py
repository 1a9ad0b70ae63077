# SPDX-License-Identifier: Apache-2.0
"""Run the tests with the installed conda package, then look where its libraries came from.

usage: PREFIX/bin/python suite.py TESTS [PYTEST OPTIONS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def main() -> int:
    status = pytest.main([*sys.argv[1:], "-p", "no:cacheprovider", "-q"])
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = {Path(line.split(maxsplit=5)[5]) for line in maps if "/" in line}
    for name in ("libLLVM", "libtvm_ffi.so"):
        found = {path for path in mapped if path.name.startswith(name)}
        outside = {path for path in found if Path(sys.prefix) not in path.parents}
        if not found or outside:
            print(f"{name} must come from {sys.prefix}, not from {[*map(str, found)]}")
            return 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
