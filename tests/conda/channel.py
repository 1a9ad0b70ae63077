# SPDX-License-Identifier: Apache-2.0
"""Make a stand-in for the part of conda-forge that the recipe needs.

usage: channel.py DEBS WHEELS CHANNEL   (the folders of downloads, and the one to write)

The packages have conda-forge's names, dependencies, run_exports and file layout, and contents from
elsewhere: Debian's LLVM, wheels from PyPI, this machine's Python, and its compiler, which is used
where it is. So a build against this channel proves the recipe and the metadata of what it builds,
not that it works with conda-forge's binaries.

DEBS has a folder for each of Debian's architectures. Where there is one for arm64, the channel has
what cross-building for linux-aarch64 needs, too (see cross.py).
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import cross
from compilers import Toolchain, add_toolchain
from conda_package import Channel, Platform
from python_files import LIBRARY, PYTHON, SITE_PACKAGES, add_interpreter, copy_standard_library

DEBS, WHEELS, FOLDER = (Path(argument).resolve() for argument in sys.argv[1:4])
CHANNEL = Channel(FOLDER)
X86_64 = Platform("linux-64", "x86_64", DEBS / "amd64")
AARCH64 = Platform("linux-aarch64", "aarch64", DEBS / "arm64")
CP = f"cp{sys.version_info[0]}{sys.version_info[1]}"
PYTHON_ABI = f"python_abi {PYTHON}.* *_{CP}"
GLIBC = platform.libc_ver()[1]


def native_toolchain() -> Toolchain:
    programs = {name: shutil.which(name) or "" for name in ("gcc", "g++")}
    return Toolchain(
        platform=X86_64,
        version=subprocess.check_output(["g++", "-dumpfullversion"], text=True).strip(),
        glibc=GLIBC,
        loader="ld-linux-x86-64.so.2",
        c=programs["gcc"],
        cxx=programs["g++"],
        flags="-march=nocona -mtune=haswell -ftree-vectorize",
    )


def python() -> None:
    source = Path(sys.base_prefix)
    with CHANNEL.package(
        "python",
        ".".join(map(str, sys.version_info[:3])),
        "0_cpython",
        subdir=X86_64.subdir,
        depends=[PYTHON_ABI],
        run_exports={"weak": [PYTHON_ABI], "noarch": ["python"]},
        placeholder=str(source),
    ) as root:
        add_interpreter(source, root)
        copy_standard_library(root / LIBRARY)
        for library in source.glob(f"lib/libpython{PYTHON}.so*"):
            shutil.copy(library, root / "lib", follow_symlinks=False)
        headers = f"include/python{PYTHON}"
        shutil.copytree(source / headers, root / headers)


def llvm(platform: Platform) -> None:
    (config,) = platform.debs.glob("usr/lib/llvm-*/lib/cmake/llvm/LLVMConfig.cmake")
    match = re.search(r"set\(LLVM_PACKAGE_VERSION ([\d.]+)\)", config.read_text())
    assert match, config
    version = match[1]
    major, minor, _ = version.split(".")
    library = f"libLLVM.so.{major}.{minor}"
    exports = {"weak": [f"libllvm{major} >={version},<{major}.{int(minor) + 1}.0a0"]}
    exact = [f"libllvm{major} =={version}"]
    subdir = platform.subdir
    # What Debian's libLLVM needs, which a machine without it may lack.
    with CHANNEL.package("debian-libraries", "12", subdir=subdir) as root:
        names = "z3.so.4 edit.so.2 xml2.so.2 icuuc.so.72 icudata.so.72 bsd.so.0 md.so.0 zstd.so.1"
        names += " z.so.1 ffi.so.8 lzma.so.5 tinfo.so.6 expat.so.1"
        platform.copy_libraries([f"lib{name}" for name in names.split()], root / "lib")
    with CHANNEL.package(
        f"libllvm{major}",
        version,
        subdir=subdir,
        depends=["debian-libraries", "libstdcxx", "libgcc"],
        run_exports=exports,
    ) as root:
        platform.copy_libraries([library], root / "lib")
    with CHANNEL.package("llvm", version, subdir=subdir, depends=exact, run_exports=exports):
        pass
    # As on conda-forge, llvmdev exports nothing: a recipe that lists it alone is overlinking.
    with CHANNEL.package("llvmdev", version, subdir=subdir, depends=exact) as root:
        include = platform.debs / "usr/include"
        shutil.copytree(include / f"llvm-{major}/llvm", root / "include/llvm")
        shutil.copytree(include / f"llvm-c-{major}/llvm-c", root / "include/llvm-c")
        shutil.copytree(config.parent, root / "lib/cmake/llvm")
        for name in ("libLLVM.so", "libLLVM.so.1"):
            (root / "lib" / name).symlink_to(library)
        for file in (root / "lib/cmake/llvm").glob("LLVM*.cmake"):
            text = file.read_text()
            # conda-forge builds without these, or does not export them.
            text = re.sub(
                r"set\(LLVM_ENABLE_(FFI|LIBEDIT|CURL|ZLIB|ZSTD|LIBXML2) .*",
                r"set(LLVM_ENABLE_\1 0)",
                text,
            )
            text = re.sub(r"[^\";]*libz3\.so;?|ZLIB::ZLIB;?|zstd::libzstd_shared;?", "", text)
            # The tools and the static libraries are left out, so they must not be looked for.
            text = re.sub(r"(?m)^list\(APPEND _cmake_import_check_.*", "", text)
            file.write_text(text)


def wheel(
    name: str, conda_name: str, depends: Iterable[str] = (), platform: Platform | None = None
) -> None:
    """Make a package of a wheel: one for `platform`, or else one for any."""
    (file,) = WHEELS.glob(f"{name}-[0-9]*{platform.processor if platform else ''}.whl")
    version = file.name.split("-")[1]
    subdir = platform.subdir if platform else "noarch"
    with CHANNEL.package(
        conda_name, version, f"{CP}_0", subdir=subdir, depends=["python", *depends]
    ) as root:
        target = root / SITE_PACKAGES
        with zipfile.ZipFile(file) as archive:
            archive.extractall(target)
        # The two tools are programs in a wheel's clothes.
        for program in [*target.glob("ninja-*.data/scripts/*"), *target.glob("ninja/data/bin/*")]:
            (root / "bin").mkdir(exist_ok=True)
            shutil.copy(program, root / "bin")
        if (target / "cmake/data").exists():
            for folder in ("bin", "share"):
                shutil.copytree(target / "cmake/data" / folder, root / folder)
        for program in root.glob("bin/*"):
            program.chmod(0o755)


def tvm_ffi(platform: Platform) -> None:
    depends = ["typing-extensions >=4.5", "libstdcxx"]
    wheel("apache_tvm_ffi", "apache-tvm-ffi", depends, platform)


def main() -> None:
    with CHANNEL.package("python_abi", PYTHON, f"8_{CP}", subdir="noarch"):
        pass
    add_toolchain(CHANNEL, native_toolchain())
    python()
    llvm(X86_64)
    tvm_ffi(X86_64)
    wheel("cmake", "cmake", platform=X86_64)
    wheel("ninja", "ninja", platform=X86_64)
    wheel("nanobind", "nanobind")
    wheel("packaging", "packaging")
    wheel("pathspec", "pathspec")
    wheel("pip", "pip")
    wheel("scikit_build_core", "scikit-build-core", ["packaging >=24.2", "pathspec >=0.10.1"])
    wheel("typing_extensions", "typing-extensions")
    if AARCH64.debs.exists():
        wheel("crossenv", "crossenv")
        add_toolchain(CHANNEL, cross.toolchain(AARCH64, X86_64))
        cross.cross_python(CHANNEL, AARCH64, X86_64)
        cross.python(CHANNEL, AARCH64, PYTHON_ABI)
        llvm(AARCH64)
        tvm_ffi(AARCH64)


if __name__ == "__main__":
    main()
