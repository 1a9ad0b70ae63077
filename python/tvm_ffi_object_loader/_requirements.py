# SPDX-License-Identifier: Apache-2.0
"""Check that the installed apache-tvm-ffi is one that the native module can run with.

This is imported first: libtvm_ffi has to be in the process before the native module, and an
unsuitable one has to be named before anything else fails because of it.
"""

import tvm_ffi

# The first release whose `tvm_ffi.Function` and C API are the ones that the native module uses.
OLDEST_TVM_FFI = (0, 1, 15)


def _message(found: str, why: str = "") -> str:
    oldest = ".".join(map(str, OLDEST_TVM_FFI))
    return (
        f"tvm_ffi_object_loader needs apache-tvm-ffi >= {oldest}, but {found} is installed{why}: "
        "pip install --upgrade apache-tvm-ffi"
    )


# A development build without version information calls itself 0.0.0.
if (0, 0, 0) < tuple(tvm_ffi.__version_tuple__[:3]) < OLDEST_TVM_FFI:
    raise ImportError(_message(tvm_ffi.__version__), name="tvm_ffi")

try:
    from . import _native  # noqa: F401
except ImportError as error:
    if "TVMFFI" not in str(error):
        raise
    # The C API grew between that release and the one that the native module was built with.
    why = f" and older than the one built with ({error})"
    raise ImportError(_message(tvm_ffi.__version__, why), name="tvm_ffi") from error
