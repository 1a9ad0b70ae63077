# SPDX-License-Identifier: Apache-2.0
"""Run the command-line interface: ``python -m tvm_ffi_object_loader``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
