# SPDX-License-Identifier: Apache-2.0
"""Check that this is the main interpreter, and that the installed apache-tvm-ffi serves.

This is imported first: libtvm_ffi has to be in the process before the native module, and an
unsuitable one has to be named before anything else fails because of it.
"""

import importlib


def _is_main_interpreter() -> bool:
    # tvm-ffi would fail in others with an error of its own. Where Python has neither of these
    # modules, the native module tells.
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


if not _is_main_interpreter():
    raise ImportError(
        "tvm_ffi_object_loader cannot be imported in a second interpreter of a process: import it "
        "in the main interpreter"
    )

import tvm_ffi  # noqa: E402 (in another interpreter it fails in its own way)

# The oldest release that the package is tested with, as in pyproject.toml.
OLDEST_TVM_FFI = (0, 1, 9)

# An old release may not say its version itself.
_VERSION = getattr(tvm_ffi, "__version__", None)
if _VERSION is None:
    import importlib.metadata  # takes time, and is not needed by others

    _VERSION = importlib.metadata.version("apache-tvm-ffi")
_INSTALLED = f"apache-tvm-ffi {_VERSION}, which is installed"

# The first release doesn't have it. A development build without version information calls itself
# 0.0.0.
if (0, 0, 0) < tuple(getattr(tvm_ffi, "__version_tuple__", (0, 1))[:3]) < OLDEST_TVM_FFI:
    raise ImportError(
        f"tvm_ffi_object_loader needs apache-tvm-ffi >= {'.'.join(map(str, OLDEST_TVM_FFI))}, but "
        f"{_VERSION} is installed: pip install --upgrade apache-tvm-ffi",
        name="tvm_ffi",
    )

try:
    from . import _native as _native
except ImportError as error:
    reason = str(error)
    if reason.startswith("libtvm_ffi differs: "):
        raise ImportError(
            f"tvm_ffi_object_loader cannot work with {_INSTALLED}: "
            f"{reason.removeprefix('libtvm_ffi differs: ')}. Install another release of either: "
            "pip install --upgrade apache-tvm-ffi tvm-ffi-object-loader",
            name="tvm_ffi",
        ) from error
    if "TVMFFI" not in reason and "tvm3ffi" not in reason:
        raise
    # tvm-ffi's headers refer to more of its library with each release.
    raise ImportError(
        f"tvm_ffi_object_loader needs more of tvm-ffi's library than there is in {_INSTALLED}: pip "
        f"install --upgrade apache-tvm-ffi ({reason})",
        name="tvm_ffi",
    ) from error
