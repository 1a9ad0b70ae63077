# SPDX-License-Identifier: Apache-2.0
"""Print all that the package, its build and its tests require: one a line, as pip takes it.

Needs tomli on a Python that is older than 3.11.
"""

import importlib
import sys
from pathlib import Path

toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
settings = toml.loads(Path("pyproject.toml").read_text())
print(*settings["build-system"]["requires"], sep="\n")
print(*settings["tool"]["scikit-build"]["build"]["requires"], sep="\n")
print(*settings["project"]["dependencies"], sep="\n")
print(*settings["project"]["optional-dependencies"]["test"], sep="\n")
