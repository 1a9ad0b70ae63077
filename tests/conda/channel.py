# SPDX-License-Identifier: Apache-2.0
"""Make a stand-in for the part of conda-forge that the recipe needs.

usage: channel.py DEBS WHEELS CHANNEL   (the folders of downloads, and the one to write)

The packages have conda-forge's names, dependencies, run_exports and file layout, and contents from
elsewhere: Debian's LLVM, wheels from PyPI, this machine's Python, and its compiler, which is used
where it is. So a build against this channel proves the recipe and the metadata of what it builds,
not that it works with conda-forge's binaries.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

DEBS, WHEELS, CHANNEL = (Path(argument).resolve() for argument in sys.argv[1:4])
PYTHON = ".".join(map(str, sys.version_info[:2]))
CP = f"cp{sys.version_info[0]}{sys.version_info[1]}"
SITE_PACKAGES = f"lib/python{PYTHON}/site-packages"
SYSTEM_LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu"), Path("/lib/x86_64-linux-gnu"))
GCC = subprocess.check_output(["g++", "-dumpfullversion"], text=True).strip()
GLIBC = platform.libc_ver()[1]


@contextlib.contextmanager
def package(
    name: str,
    version: str,
    build: str = "0",
    *,
    depends: Iterable[str] = (),
    constrains: Iterable[str] = (),
    run_exports: dict[str, list[str]] | None = None,
    noarch: bool = False,
    placeholder: str | None = None,
) -> Iterator[Path]:
    """Yield a folder, and make a package of what the caller has put there.

    Occurrences of `placeholder` in its text files become the path of the environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield root
        files = sorted(p for p in root.rglob("*") if p.is_symlink() or not p.is_dir())
        names = [path.relative_to(root).as_posix() for path in files]
        paths = []
        for path, file in zip(files, names, strict=True):
            content = path.read_bytes() if path.exists() else b""
            entry = {
                "_path": file,
                "path_type": "softlink" if path.is_symlink() else "hardlink",
                "sha256": hashlib.sha256(content).hexdigest(),
                "size_in_bytes": len(content),
            }
            if placeholder and placeholder.encode() in content and b"\0" not in content:
                entry |= {"prefix_placeholder": placeholder, "file_mode": "text"}
            paths.append(entry)
        subdir = "noarch" if noarch else "linux-64"
        index: dict[str, object] = {
            "name": name,
            "version": version,
            "build": build,
            "build_number": 0,
            "depends": list(depends),
            "constrains": list(constrains),
            "subdir": subdir,
            "license": "LicenseRef-stand-in",
        }
        if noarch:
            index["noarch"] = "generic"
        info = {
            "index.json": index,
            "paths.json": {"paths": paths, "paths_version": 1},
            "run_exports.json": run_exports or {},
            "about.json": {"summary": f"Stand-in for the package {name}"},
        }
        for file, data in info.items():
            (root / "info").mkdir(exist_ok=True)
            (root / "info" / file).write_text(json.dumps(data))
        stem = f"{name}-{version}-{build}"
        with zipfile.ZipFile(CHANNEL / subdir / f"{stem}.conda", "w") as archive:
            archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
            archive.writestr(f"pkg-{stem}.tar.zst", tar(root, names))
            archive.writestr(f"info-{stem}.tar.zst", tar(root, [f"info/{file}" for file in info]))


def tar(root: Path, names: Iterable[str]) -> bytes:
    output = io.BytesIO()
    compressor = zstandard.ZstdCompressor(level=1, threads=-1)
    with (
        compressor.stream_writer(output, closefd=False) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        for name in names:
            archive.add(root / name, name)
    return output.getvalue()


def copy_libraries(names: Iterable[str], target: Path, *, beside: Path = Path("/")) -> None:
    """Copy shared libraries, from Debian's packages unpacked in `beside` or from the system."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        candidates = (beside / folder.relative_to("/") / name for folder in SYSTEM_LIBRARIES)
        shutil.copy(next(path for path in candidates if path.exists()), target / name)


def compilers() -> None:
    # The build tools read from the sysroot which libraries are the system's.
    with package(
        "sysroot_linux-64",
        GLIBC,
        noarch=True,
        run_exports={"strong": [f"__glibc >={GLIBC},<3.0.a0"]},
    ) as root:
        system = "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 ld-linux-x86-64.so.2"
        copy_libraries(system.split(), root / "x86_64-conda-linux-gnu/sysroot/lib64")
    with package("libgcc", GCC) as root:
        copy_libraries(["libgcc_s.so.1"], root / "lib")
    with package("libstdcxx", GCC, depends=[f"libgcc =={GCC}"]) as root:
        copy_libraries(["libstdc++.so.6"], root / "lib")
    major = GCC.split(".")[0]
    # The flags are those of conda-forge's compiler packages, which a build must get along with.
    prefix = "${PREFIX:-$CONDA_PREFIX}"
    flags = (
        "-march=nocona -mtune=haswell -ftree-vectorize -fPIC -fstack-protector-strong -fno-plt "
        f"-O2 -ffunction-sections -pipe -isystem {prefix}/include"
    )
    linking = (
        "-Wl,-O2 -Wl,--sort-common -Wl,--as-needed -Wl,-z,relro -Wl,-z,now "
        "-Wl,--disable-new-dtags -Wl,--gc-sections -Wl,--allow-shlib-undefined "
        f"-Wl,-rpath,{prefix}/lib -Wl,-rpath-link,{prefix}/lib -L{prefix}/lib"
    )
    modes = ["PROGRAM=NEVER", "LIBRARY=ONLY", "INCLUDE=ONLY", "PACKAGE=ONLY"]
    cmake = " ".join(
        [
            "-DCMAKE_BUILD_TYPE=Release",
            *(f"-DCMAKE_FIND_ROOT_PATH_MODE_{mode}" for mode in modes),
            f"-DCMAKE_FIND_ROOT_PATH={prefix}",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            "-DCMAKE_INSTALL_LIBDIR=lib",
        ]
    )
    for name, variables, depends, exports in (
        (
            "gcc_linux-64",
            {"CC": shutil.which("gcc"), "CFLAGS": flags, "LDFLAGS": linking, "CMAKE_ARGS": cmake},
            ["sysroot_linux-64"],
            [f"libgcc >={major}"],
        ),
        (
            "gxx_linux-64",
            {"CXX": shutil.which("g++"), "CXXFLAGS": f"-fvisibility-inlines-hidden {flags}"},
            [f"gcc_linux-64 =={GCC}"],
            [f"libstdcxx >={major}", f"libgcc >={major}"],
        ),
    ):
        with package(name, GCC, depends=depends, run_exports={"strong": exports}) as root:
            script = root / f"etc/conda/activate.d/activate-{name}.sh"
            script.parent.mkdir(parents=True)
            script.write_text("".join(f'export {k}="{v}"\n' for k, v in variables.items()))


def python() -> None:
    abi = f"python_abi {PYTHON}.* *_{CP}"
    with package("python_abi", PYTHON, f"8_{CP}", noarch=True):
        pass
    source = Path(sys.base_prefix)
    skipped = shutil.ignore_patterns(
        "__pycache__", "site-packages", "test", "idlelib", "ensurepip", "config-*", "_test*.so"
    )
    with package(
        "python",
        ".".join(map(str, sys.version_info[:3])),
        "0_cpython",
        depends=[abi],
        run_exports={"weak": [abi], "noarch": ["python"]},
        placeholder=str(source),
    ) as root:
        for folder in ("bin", SITE_PACKAGES):
            (root / folder).mkdir(parents=True)
        interpreter = shutil.copy(source / f"bin/python{PYTHON}", root / "bin")
        subprocess.run(["patchelf", "--set-rpath", "$ORIGIN/../lib", interpreter], check=True)
        for name in ("python", "python3"):
            (root / "bin" / name).symlink_to(f"python{PYTHON}")
        for library in source.glob(f"lib/libpython{PYTHON}.so*"):
            shutil.copy(library, root / "lib", follow_symlinks=False)
        for folder in (f"include/python{PYTHON}", f"lib/python{PYTHON}"):
            shutil.copytree(
                source / folder, root / folder, symlinks=True, dirs_exist_ok=True, ignore=skipped
            )
        (root / SITE_PACKAGES / "README.txt").write_text("packages are installed here\n")


def llvm() -> None:
    (config,) = DEBS.glob("usr/lib/llvm-*/lib/cmake/llvm/LLVMConfig.cmake")
    match = re.search(r"set\(LLVM_PACKAGE_VERSION ([\d.]+)\)", config.read_text())
    assert match, config
    version = match[1]
    major, minor, _ = version.split(".")
    library = f"libLLVM.so.{major}.{minor}"
    exports = {"weak": [f"libllvm{major} >={version},<{major}.{int(minor) + 1}.0a0"]}
    exact = [f"libllvm{major} =={version}"]
    with package(
        f"libllvm{major}", version, depends=["libstdcxx", "libgcc"], run_exports=exports
    ) as root:
        # With what Debian's libLLVM needs, which a machine without it may lack.
        own = "z3.so.4 edit.so.2 xml2.so.2 icuuc.so.72 icudata.so.72 bsd.so.0 md.so.0 zstd.so.1"
        own += " z.so.1 ffi.so.8 lzma.so.5 tinfo.so.6"
        copy_libraries(
            [library, *(f"lib{name}" for name in own.split())], root / "lib", beside=DEBS
        )
    with package("llvm", version, depends=exact, run_exports=exports):
        pass
    # As on conda-forge, llvmdev exports nothing: a recipe that lists it alone is overlinking.
    with package("llvmdev", version, depends=exact) as root:
        include = DEBS / "usr/include"
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


def wheel(name: str, conda_name: str, depends: Iterable[str] = ()) -> None:
    (file,) = WHEELS.glob(f"{name}-[0-9]*.whl")
    version = file.name.split("-")[1]
    with package(conda_name, version, f"{CP}_0", depends=["python", *depends]) as root:
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


def main() -> None:
    for subdir in ("linux-64", "noarch"):
        (CHANNEL / subdir).mkdir(parents=True)
    compilers()
    python()
    llvm()
    wheel("apache_tvm_ffi", "apache-tvm-ffi", ["typing-extensions >=4.5", "libstdcxx"])
    wheel("cmake", "cmake")
    wheel("nanobind", "nanobind")
    wheel("ninja", "ninja")
    wheel("packaging", "packaging")
    wheel("pathspec", "pathspec")
    wheel("pip", "pip")
    wheel("scikit_build_core", "scikit-build-core", ["packaging >=24.2", "pathspec >=0.10.1"])
    wheel("typing_extensions", "typing-extensions")


if __name__ == "__main__":
    main()
