# SPDX-License-Identifier: Apache-2.0
"""Make the Python of a host environment for another processor usable while building.

usage: cross_environment.py PROCESSOR   (in an activated build, by the build environment's Python)

As after activating conda-forge's cross-python, PREFIX's python is a program that runs the build
environment's Python, and says of itself what the one for PROCESSOR would say. What it imports is
the build environment's, where PREFIX's packages are copied over but for their compiled modules.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from crossenv import CrossEnvBuilder

PROCESSOR = sys.argv[1]
BUILD_PREFIX, PREFIX = Path(os.environ["BUILD_PREFIX"]), Path(os.environ["PREFIX"])
LIBRARY = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"


def make_environment(folder: Path) -> None:
    host_python = PREFIX / "bin/python"
    (variables,) = (PREFIX / LIBRARY).glob("_sysconfigdata*.py")
    CrossEnvBuilder(
        host_python=str(host_python),
        host_cc=os.environ["CC"],
        host_cxx=os.environ["CXX"],
        host_sysroot="",  # the compiler knows its own
        host_config_vars={},
        host_sysconfigdata_file=str(variables),
        host_machine=PROCESSOR,
    ).create(folder)
    # It is PREFIX/bin/python by its own word, so that packages are installed there.
    wrapper = folder / "bin/cross-python"
    wrapper.unlink()
    text = (folder / "cross/bin/python").read_text()
    wrapper.write_text(text.replace("import sys\n", f"import sys\nsys.argv[0] = '{host_python}'\n"))
    wrapper.chmod(0o755)
    patch = folder / "lib/sys-patch.py"
    patch.write_text(f"{patch.read_text()}\nexecutable = {str(host_python)!r}\n")
    shutil.copy(variables, folder / "lib")
    shutil.rmtree(folder / "cross")
    program = host_python.resolve()
    program.unlink()  # it may be one file with the package cache's
    program.write_text(f'#!/bin/sh\nexec "{wrapper}" "$@"\n')
    program.chmod(0o755)


def share_packages(folder: Path) -> None:
    packages = BUILD_PREFIX / LIBRARY / "site-packages"
    for source in (PREFIX / LIBRARY / "site-packages").rglob("*"):
        if source.is_file() and source.suffix != ".so":
            copy = packages / source.relative_to(PREFIX / LIBRARY / "site-packages")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            shutil.copy(source, copy)
    seen = folder / LIBRARY / "site-packages"
    shutil.rmtree(seen, ignore_errors=True)
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.symlink_to(packages)


if __name__ == "__main__":
    environment = BUILD_PREFIX / "venv"
    if not environment.exists():
        make_environment(environment)
        share_packages(environment)
