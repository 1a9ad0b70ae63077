# SPDX-License-Identifier: Apache-2.0
"""build_object and load_inline: from C++ or CUDA source to an object, and to its functions.

The compiling is `tvm_ffi.cpp.build_inline`'s, in a folder of its own, to an object instead of a
library. An `ObjectCache` keeps it, under a key of everything that it was made from. What it
included is known only once it was compiled; so under a first key, of the sources, the flags and the
compiler, is a list of headers, and under a second one, of these headers' contents too, the object.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tvm_ffi
import tvm_ffi.cpp

from .arguments import require_name
from .cache import ObjectCache
from .keys import object_key
from .process_session import default_session
from .session import Session

if TYPE_CHECKING:
    from .arguments import LinkOrder

    Sources = Sequence[str] | str | None
    Functions = Mapping[str, str] | Sequence[str] | str | None
    Flags = Sequence[str] | None

# What tvm_ffi.cpp and the compilers look at.
_ENVIRONMENT = (
    *("CC", "CXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "CUDA_HOME", "CUDA_PATH"),
    *("ROCM_HOME", "ROCM_PATH", "TVM_FFI_CUDA_ARCH_LIST", "TVM_FFI_GPU_BACKEND"),
    "TVM_FFI_ROCM_ARCH_LIST",
)


@functools.cache
def _default_cache() -> ObjectCache:
    return ObjectCache()


def _program(command: str) -> tuple[str, int, int] | str:
    """Return what tells a program from another one, or another version of it."""
    words = shlex.split(command)
    found = shutil.which(words[0]) if words else None
    if found is None:
        return command
    path = Path(found).resolve()
    status = path.stat()
    return (str(path), status.st_size, status.st_mtime_ns)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("flags")), "")


def _first_key(name: str, parameters: Mapping[str, Any]) -> str:
    flags = [*(parameters["extra_cflags"] or ()), *(parameters["extra_cuda_cflags"] or ())]
    return object_key(
        "build_object",
        name,
        parameters,
        {variable: os.environ.get(variable) for variable in _ENVIRONMENT},
        _program(os.environ.get("CXX", "c++")),
        _program("nvcc") if parameters["cuda_sources"] else None,
        _processor() if any("native" in flag for flag in flags) else None,
    )


def _second_key(first: str, headers: Iterable[str]) -> str:
    contents: dict[str, bytes | None] = {}
    for header in headers:
        try:
            contents[header] = Path(header).read_bytes()
        except OSError:
            contents[header] = None
    return object_key(first, contents)


def _headers(folder: str) -> list[str]:
    """Return the headers that ninja has seen used, but those that belong to a keyed version."""
    listed = subprocess.run(
        ["ninja", "-C", folder, "-t", "deps"], capture_output=True, text=True, check=True
    ).stdout
    known = (folder, "/usr/include", "/usr/lib", *tvm_ffi.libinfo.include_paths())
    paths = {line.strip() for line in listed.splitlines() if line.startswith(" ")}
    full = (os.path.realpath(os.path.join(folder, path)) for path in paths)  # noqa: PTH118
    return sorted(path for path in full if not path.startswith(tuple(map(os.path.realpath, known))))


def _compile(name: str, parameters: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """Return the object, and the headers that it depends on."""
    with tempfile.TemporaryDirectory(prefix="object_loader_") as folder:
        path = tvm_ffi.cpp.build_inline(
            name, **parameters, build_directory=folder, output=f"{name}.o"
        )
        return Path(path).read_bytes(), _headers(folder)


def _build(name: str, parameters: Mapping[str, Any], cache: ObjectCache) -> bytes:
    first = _first_key(name, parameters)

    def compile_first() -> bytes:
        data, headers = _compile(name, parameters)
        cache.put(_second_key(first, headers), data)
        return json.dumps(headers).encode()

    def compile_again() -> bytes:
        # A header has changed, and may include others now.
        data, headers = _compile(name, parameters)
        cache.put(first, json.dumps(headers).encode())
        cache.put(_second_key(first, headers), data)
        return data

    headers = json.loads(cache.get_or_compile(first, compile_first))
    return cache.get_or_compile(_second_key(first, headers), compile_again)


def build_object(
    name: str,
    *,
    cpp_sources: Sources = None,
    cuda_sources: Sources = None,
    functions: Functions = None,
    extra_cflags: Flags = None,
    extra_cuda_cflags: Flags = None,
    extra_include_paths: Flags = None,
    embed_cubin: Mapping[str, bytes] | None = None,
    backend: str | None = None,
    cache: ObjectCache | None = None,
) -> bytes:
    """Compile C++ or CUDA source to an object that exports TVM-FFI functions.

    Parameters
    ----------
    name
        A name for the sources and the object: an identifier.
    cpp_sources, cuda_sources, functions, extra_cflags, extra_cuda_cflags, extra_include_paths
        As for `tvm_ffi.cpp.build_inline`, which compiles: sources, the functions in them to export
        (a name, names, or a mapping of names to docstrings), and the compiler's options.
    embed_cubin, backend
        As for `tvm_ffi.cpp.build_inline`.
    cache
        Where objects are kept; `ObjectCache()`, in the user's folder for caches, if it is `None`.
        The key is made of all of the above, the versions, the compiler, the variables of the
        environment that it looks at, and the contents of the headers that were included, but
        those of the system and of tvm-ffi.

    Returns
    -------
    bytes
        The object, as `Session.load` takes it.

    Raises
    ------
    FrozenCacheError
        If it is not in the cache, and the cache is frozen.
    ImportError
        If filelock, platformdirs or ninja is not installed:
        ``pip install 'tvm-ffi-object-loader[inline]'``.
    OSError
        If the cache's folder cannot be used.
    RuntimeError
        If the compiler fails; the message is its own.
    TypeError, ValueError
        If an argument is of another type, or the name is not an identifier.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> source = "int64_t twice(int64_t n) { return 2 * n; }"
    >>> data = tol.build_object("numbers", cpp_sources=source, functions="twice")
    >>> tol.load_module(data).twice(21)
    42
    """
    require_name("name", name)
    if not name.isidentifier():
        raise ValueError(f"name must be an identifier, which files are named after: {name!r}")
    if cache is not None and not isinstance(cache, ObjectCache):
        raise TypeError(f"cache must be an ObjectCache or None, not {type(cache).__name__}")
    if shutil.which("ninja") is None:
        raise ImportError(
            "tvm_ffi.cpp compiles by way of ninja, which is not installed: "
            "pip install 'tvm-ffi-object-loader[inline]'"
        )
    if "output" not in inspect.signature(tvm_ffi.cpp.build_inline).parameters:
        raise RuntimeError(
            f"tvm_ffi.cpp.build_inline of apache-tvm-ffi {tvm_ffi.__version__} makes no objects: "
            "pip install --upgrade apache-tvm-ffi"
        )
    parameters: dict[str, Any] = {
        "cpp_sources": cpp_sources,
        "cuda_sources": cuda_sources,
        "functions": functions,
        "extra_cflags": extra_cflags,
        "extra_cuda_cflags": extra_cuda_cflags,
        "extra_include_paths": [os.path.abspath(path) for path in extra_include_paths or ()],  # noqa: PTH100
        "embed_cubin": embed_cubin,
        "backend": backend,
    }
    return _build(name, parameters, _default_cache() if cache is None else cache)


def load_inline(
    name: str,
    *,
    cpp_sources: Sources = None,
    cuda_sources: Sources = None,
    functions: Functions = None,
    extra_cflags: Flags = None,
    extra_cuda_cflags: Flags = None,
    extra_include_paths: Flags = None,
    embed_cubin: Mapping[str, bytes] | None = None,
    backend: str | None = None,
    cache: ObjectCache | None = None,
    session: Session | None = None,
    link_order: LinkOrder = (),
) -> tvm_ffi.Module:
    """Compile C++ or CUDA source and load it, with no linker and, the second time, no compiler.

    It is `tvm_ffi.cpp.load_inline` for objects. Libraries are named by `link_order`, not by
    linker's flags; the module is unloaded when nobody holds it any more.

    Parameters
    ----------
    name
        A name for the sources, and for the dylib: an identifier. If a dylib of the session has it,
        it goes over to the new one.
    cpp_sources, cuda_sources, functions, extra_cflags, extra_cuda_cflags, extra_include_paths
        As for `build_object`.
    embed_cubin, backend, cache
        As for `build_object`.
    session
        The session to load into; the default session if it is `None`.
    link_order
        As for `Session.create_dylib`.

    Returns
    -------
    tvm_ffi.Module
        The module, whose attributes are the exported functions.

    Raises
    ------
    FrozenCacheError, ImportError, OSError, RuntimeError, TypeError, ValueError
        As `build_object` raises them.
    ObjectLoaderError
        As `Session.load` raises it, with all its subclasses.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> source = "int64_t thrice(int64_t n) { return 3 * n; }"
    >>> tol.load_inline("more", cpp_sources=source, functions="thrice").thrice(14)
    42
    """
    if session is None:
        session = default_session()
    elif not isinstance(session, Session):
        raise TypeError(f"session must be a Session, not {type(session).__name__}")
    data = build_object(
        name,
        cpp_sources=cpp_sources,
        cuda_sources=cuda_sources,
        functions=functions,
        extra_cflags=extra_cflags,
        extra_cuda_cflags=extra_cuda_cflags,
        extra_include_paths=extra_include_paths,
        embed_cubin=embed_cubin,
        backend=backend,
        cache=cache,
    )
    return session.load_module(data, name=name, link_order=link_order, replace=True)
