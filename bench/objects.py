# SPDX-License-Identifier: Apache-2.0
"""Compile what is measured, once: each file is cached under a hash of what it is made from."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import tvm_ffi.libinfo

SOURCES = Path(__file__).parent / "sources"
CC = os.environ.get("CC", "cc")
CXX = os.environ.get("CXX", "c++")


def cache_folder() -> Path:
    """Return the folder that holds the compiled objects.

    Returns
    -------
    Path
        ``$OBJECT_LOADER_BENCH_CACHE``, or a folder in the user's cache.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(
        os.environ.get("OBJECT_LOADER_BENCH_CACHE") or Path(base) / "tvm-ffi-object-loader-bench"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(command: Sequence[str]) -> None:
    """Run a compiler or linker.

    Raises
    ------
    RuntimeError
        With the command and what it printed, if it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


@functools.cache
def version_of(program: str) -> str:
    """Return the first line that ``program --version`` prints, or ``"not installed"``."""
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def build(source: str, suffix: str, command: Sequence[str], output: str) -> Path:
    """Make a file from a source text, unless the cache has it.

    Parameters
    ----------
    source
        Text of the source file.
    suffix
        Suffix of the source file, with its dot.
    command
        Compiler and flags; the source and ``-o output`` are added.
    output
        Name of the file made; it lies alone in a folder named after the hash of all of these.

    Returns
    -------
    Path
        The file made.

    Raises
    ------
    RuntimeError
        If the command fails.
    """
    making = "\0".join([source, suffix, *command, version_of(command[0]), sys.version])
    folder = cache_folder() / hashlib.sha256(making.encode()).hexdigest()[:16]
    target = folder / output
    if not target.exists():
        folder.mkdir(exist_ok=True)
        text = folder / f"source{suffix}"
        text.write_text(source)
        # Two processes may make one file: the name appears only when it is complete.
        partial = folder / f"{os.getpid()}-{output}"
        run([*command, str(text), "-o", str(partial)])
        partial.replace(target)
    return target


def include_flags() -> list[str]:
    """Return the compiler flags that find TVM-FFI's headers."""
    return [f"-I{path}" for path in tvm_ffi.libinfo.include_paths()]


def compile_c(source: str, name: str, *flags: str) -> Path:
    """Compile C text to the object ``name``."""
    return build(source, ".c", [CC, "-c", "-O2", "-fPIC", *include_flags(), *flags], f"{name}.o")


def calls_object() -> Path:
    """Return the C object whose functions the call benchmarks call."""
    return compile_c((SOURCES / "calls.c").read_text(), "calls")


def c_object() -> Path:
    """Return the C object of the load benchmarks: one ``add``."""
    return compile_c((SOURCES / "add.c").read_text(), "add_c")


def compile_cpp(source: str, name: str) -> Path:
    """Compile C++ text to the object ``name``."""
    command = [CXX, "-c", "-std=c++17", "-O2", "-fPIC", *include_flags()]
    return build(source, ".cc", command, f"{name}.o")


def cpp_object() -> Path:
    """Return the C++ object of the load benchmarks: one ``TVM_FFI_DLL_EXPORT_TYPED_FUNC``."""
    return compile_cpp((SOURCES / "add.cc").read_text(), "add_cpp")


def throws_object() -> Path:
    """Return the C++ object whose ``add`` throws an exception through ten frames on the way."""
    return compile_cpp((SOURCES / "throws.cc").read_text(), "throws")


def thread_local_object() -> Path:
    """Return the C object whose ``add`` uses a thread-local variable."""
    return compile_c((SOURCES / "thread_local.c").read_text(), "thread_local")


def results_object() -> Path:
    """Return the C++ object whose functions return objects, or are given some."""
    return compile_cpp((SOURCES / "results.cc").read_text(), "results")


def instrument() -> Path:
    """Return the library that tells callgrind when to count."""
    command = [CC, "-shared", "-O2", "-fPIC"]
    return build((SOURCES / "instrument.c").read_text(), ".c", command, "instrument.so")


def symbols_object(count: int, *flags: str) -> Path:
    """Return a C object with ``add`` and ``count`` more global functions."""
    more = "".join(f"int f{index}(int x) {{ return x + {index}; }}\n" for index in range(count))
    text = (SOURCES / "add.c").read_text() + more
    return compile_c(text, f"symbols_{count}", *flags)


def sections_object(count: int) -> Path:
    """Return an object of ``count`` functions, each in a section of its own."""
    return symbols_object(count, "-ffunction-sections")


def sized_object(size: int) -> Path:
    """Return a C object with ``add`` and ``size`` bytes of constant data that it refers to."""
    text = (SOURCES / "add.c").read_text()
    # JITLink leaves out what nothing refers to.
    text = text.replace("return 0;", "return num_args > 9 ? blob[num_args] : 0;")
    blob = '__attribute__((visibility("hidden"))) extern const char blob[];\n'
    fill = f'__asm__(".section .rodata\\nblob: .fill {size}, 1, 0x5a\\n.text");\n'
    return compile_c(blob + fill + text, f"size_{size}")


def content_object(kind: str, size: int) -> Path:
    """Return a C object with ``add`` and ``size`` bytes of content that it refers to.

    Parameters
    ----------
    kind
        ``"constants"`` or ``"data"``.
    size
        Bytes of it.
    """
    constant, section = ("const ", ".rodata") if kind == "constants" else ("", ".data")
    text = (SOURCES / "add.c").read_text()
    text = text.replace("return 0;", "return num_args > 9 ? blob[num_args] : 0;")
    blob = f'__attribute__((visibility("hidden"))) extern {constant}char blob[];\n'
    fill = f'__asm__(".section {section}\\nblob: .fill {size}, 1, 0x5a\\n.text");\n'
    return compile_c(blob + fill + text, f"{kind}_{size}")


def embedding_object(kind: str, size: int) -> Path:
    """Return a C object with ``add`` that embeds a module: ``size`` bytes in the library binary.

    Parameters
    ----------
    kind
        The module's kind: what its loader is registered for.
    size
        Bytes that the loader is given.
    """
    tree = struct.pack("<QQQQ", 3, 0, 1, 1) + struct.pack("<QQ", 1, 1)
    tree += struct.pack("<Q", len("_lib")) + b"_lib"
    tree += struct.pack("<Q", len(kind)) + kind.encode() + struct.pack("<Q", size)
    head = struct.pack("<Q", len(tree) + size) + tree
    numbers = ",".join(map(str, head))
    blob = (
        '__asm__(".section .rodata\\n.globl __tvm_ffi__library_bin\\n.balign 8\\n"\n'
        f'"__tvm_ffi__library_bin: .byte {numbers}\\n.fill {size}, 1, 0x5a\\n.text");\n'
    )
    return compile_c(blob + (SOURCES / "add.c").read_text(), f"embedding_{size}")


def openblas() -> Path | str:
    """Return Debian's static OpenBLAS, an archive of thousands of members, or why there is none."""
    found = sorted(Path("/usr/lib").glob("*/openblas-*/libopenblas.a"))
    return found[0] if found else "not installed: Debian's libopenblas-pthread-dev"


def blas_object() -> Path:
    """Return a C object whose ``add`` multiplies two matrices with BLAS."""
    return compile_c((SOURCES / "add_with_blas.c").read_text(), "add_with_blas")


def link_command(obj: Path, output: Path, *flags: str) -> list[str]:
    """Return the command that links an object as a user of TVM-FFI links it."""
    library = Path(tvm_ffi.libinfo.find_libtvm_ffi())
    return [CXX, "-shared", str(obj), "-o", str(output), *flags, f"-L{library.parent}", "-ltvm_ffi"]


def shared(obj: Path) -> Path:
    """Return the shared library of an object, linked beside it."""
    output = obj.with_suffix(".so")
    if not output.exists():
        partial = output.with_suffix(f".{os.getpid()}")
        run(link_command(obj, partial))
        partial.replace(output)
    return output


def copies(path: Path, count: int, folder: Path) -> list[str]:
    """Copy a file: dlopen knows a file it has open by its inode, so each load needs its own."""
    paths = [str(folder / f"{index}{path.suffix}") for index in range(count)]
    for each in paths:
        shutil.copyfile(path, each)
    return paths


def lld() -> str:
    """Return the newest ``ld.lld`` on the path or in Debian's LLVM folders, or an empty string."""
    versioned = sorted(map(str, Path("/usr/lib").glob("llvm-*/bin/ld.lld")))
    return shutil.which("ld.lld") or (versioned[-1] if versioned else "")


def linkers() -> dict[str, list[str] | str]:
    """Return the linkers to compare: name -> compiler flags, or why it can't be used."""
    found: dict[str, list[str] | str] = {"cc -shared + dlopen": []}
    found["cc -shared (lld) + dlopen"] = (
        [f"-B{Path(lld()).parent}", "-fuse-ld=lld"] if lld() else "not installed"
    )
    mold = shutil.which("mold")
    found["cc -shared (mold) + dlopen"] = ["-fuse-ld=mold"] if mold else "not installed"
    return found


def nanobind_extension() -> Path:
    """Return the folder of the nanobind extension ``peer_nanobind``.

    Raises
    ------
    ImportError
        If nanobind is not installed.
    RuntimeError
        If it does not compile.
    """
    nanobind = importlib.import_module("nanobind")
    root = Path(nanobind.__file__ or "").parent
    flags = [
        *("-shared", "-fPIC", "-std=c++17", "-O3", "-DNDEBUG", "-fvisibility=hidden"),
        *("-fno-strict-aliasing", f"-I{sysconfig.get_path('include')}", f"-I{root}/include"),
        *(f"-I{root}/ext/robin_map/include", f"-I{root}/src", f"{root}/src/nb_combined.cpp"),
        f"-DBENCH_NANOBIND={nanobind.__version__.replace('.', '_')}",
    ]
    return built_extension("peer_nanobind", (SOURCES / "peer_nanobind.cc").read_text(), flags)


def cython_extension() -> Path:
    """Return the folder of the Cython extension ``peer_cython``.

    Raises
    ------
    ImportError
        If Cython is not installed.
    RuntimeError
        If it does not compile.
    """
    importlib.import_module("Cython")
    cython = [sys.executable, "-m", "cython", "-3", "--cplus", "--module-name", "peer_cython"]
    text = (SOURCES / "peer_cython.pyx").read_text()
    translated = build(text, ".pyx", cython, "peer_cython.cc").read_text()
    include = sysconfig.get_path("include")
    return built_extension(
        "peer_cython", translated, ["-shared", "-fPIC", "-O3", "-DNDEBUG", f"-I{include}"]
    )


def built_extension(name: str, source: str, flags: Sequence[str]) -> Path:
    """Compile an extension module and return its folder."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return build(source, ".cc", [CXX, *flags], f"{name}{suffix}").parent
