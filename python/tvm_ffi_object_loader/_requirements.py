# SPDX-License-Identifier: Apache-2.0
"""Check that the installed apache-tvm-ffi is one that the native module can run with.

This is imported first: libtvm_ffi has to be in the process before the native module, and an
unsuitable one has to be named before anything else fails because of it.
"""

import tvm_ffi

# The oldest release that the package is tested with, as in pyproject.toml.
OLDEST_TVM_FFI = (0, 1, 15)

# A development build without version information calls itself 0.0.0.
if (0, 0, 0) < tuple(tvm_ffi.__version_tuple__[:3]) < OLDEST_TVM_FFI:
    raise ImportError(
        f"tvm_ffi_object_loader needs apache-tvm-ffi >= {'.'.join(map(str, OLDEST_TVM_FFI))}, but "
        f"{tvm_ffi.__version__} is installed: pip install --upgrade apache-tvm-ffi",
        name="tvm_ffi",
    )

try:
    from . import _native as _native
except ImportError as error:
    if "TVMFFI" not in str(error) and "tvm3ffi" not in str(error):
        raise
    # tvm-ffi's headers refer to more of its library with each release.
    raise ImportError(
        f"tvm_ffi_object_loader was built with a newer apache-tvm-ffi than {tvm_ffi.__version__}, "
        f"which is installed: pip install --upgrade apache-tvm-ffi ({error})",
        name="tvm_ffi",
    ) from error
