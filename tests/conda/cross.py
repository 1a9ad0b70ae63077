# SPDX-License-Identifier: Apache-2.0
"""What cross-building on linux-64 for linux-aarch64 needs in the stand-in channel.

The compiler is Debian's for arm64, unpacked beside the other downloads and used where it is. The
Python that a package is built for is Debian's interpreter for arm64, with this machine's standard
library, since Debian's puts packages where conda does not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from compilers import BUILD_SUBDIR, Toolchain
from conda_package import Channel, Platform
from python_files import LIBRARY, PYTHON, add_interpreter, copy_standard_library

HERE = Path(__file__).resolve().parent
# Modules that need no libraries but those that the channel has.
LEFT_OUT = re.compile(
    r"_(bz2|crypt|ctypes_test|curses.*|dbm|hashlib|lzma|sqlite3|ssl|test.*|uuid|xxtestfuzz)\.|"
    r"(nis|readline|xxlimited.*)\."
)
# Those of Debian 12.
DEBIAN_GLIBC = "2.36"
DEBIAN_PYTHON = "3.11.2"
# The path of the environment in text files of the package, as conda-forge's have one.
PLACEHOLDER = "/opt/stand-in_placehold_placehold_placehold_placehold"


def toolchain(target: Platform, build: Platform) -> Toolchain:
    root = build.debs
    triplet, conda_triplet = f"{target.processor}-linux-gnu", f"{target.processor}-conda-linux-gnu"
    (compiler,) = root.glob(f"usr/bin/{triplet}-g++-*")
    release = compiler.name.rsplit("-", 1)[1]
    programs = {}
    for name in ("gcc", "g++", "ar", "nm", "ranlib", "strip", "ld", "readelf"):
        versioned = f"-{release} --sysroot={root}" if name in ("gcc", "g++") else ""
        programs[f"bin/{conda_triplet}-{name}"] = (
            "#!/bin/sh\n"
            f"export LD_LIBRARY_PATH={root}/usr/lib/{build.processor}-linux-gnu\n"
            f'exec {root}/usr/bin/{triplet}-{name}{versioned} "$@"\n'
        )
    tools = f"$CONDA_PREFIX/bin/{conda_triplet}"
    return Toolchain(
        platform=target,
        version=subprocess.check_output([compiler, "-dumpfullversion"], text=True).strip(),
        glibc=DEBIAN_GLIBC,
        loader="ld-linux-aarch64.so.1",
        c=f"{tools}-gcc",
        cxx=f"{tools}-g++",
        flags="-ftree-vectorize",
        programs=programs,
        cmake=(
            "-DCMAKE_SYSTEM_NAME=Linux",
            f"-DCMAKE_SYSTEM_PROCESSOR={target.processor}",
            *(
                f"-DCMAKE_{name.upper()}={tools}-{name}"
                for name in ("ar", "nm", "ranlib", "strip", "readelf")
            ),
            f"-DCMAKE_LINKER={tools}-ld",
        ),
        variables={
            "HOST": conda_triplet,
            "BUILD": f"{build.processor}-conda-linux-gnu",
            "CONDA_BUILD_CROSS_COMPILATION": "1",
            "CONDA_BUILD_SYSROOT": f"$CONDA_PREFIX/{conda_triplet}/sysroot",
        },
    )


def cross_python(channel: Channel, target: Platform, build: Platform) -> None:
    name = f"cross-python_{target.subdir}"
    exact = f"python {PYTHON}.* *_cpython"
    with channel.package(
        name,
        PYTHON,
        "0_cpython",
        subdir=BUILD_SUBDIR,
        depends=[exact, "crossenv", f"gxx_{target.subdir}"],
        run_exports={"strong": [exact]},
    ) as root:
        # The name puts it behind the compilers.
        script = root / f"etc/conda/activate.d/activate_z-{name}.sh"
        script.parent.mkdir(parents=True)
        setup = root / f"share/{name}/cross_environment.py"
        setup.parent.mkdir(parents=True)
        shutil.copy(HERE / "cross_environment.py", setup)
        script.write_text(
            'if [ "${CONDA_BUILD:-0}" = 1 ] && [ "${CONDA_BUILD_STATE:-BUILD}" != TEST ]; then\n'
            f'  "$BUILD_PREFIX/bin/python{PYTHON}" '
            f'"$BUILD_PREFIX/share/{name}/cross_environment.py" {target.processor} || exit 1\n'
            f'  export PYTHONPATH="$BUILD_PREFIX/venv/lib/python{PYTHON}/site-packages"\n'
            "fi\n"
        )


def python(channel: Channel, target: Platform, abi: str) -> None:
    with channel.package(
        "python",
        DEBIAN_PYTHON,
        "0_cpython",
        subdir=target.subdir,
        depends=[abi, "debian-libraries"],
        run_exports={"weak": [abi], "noarch": ["python"]},
        placeholder=PLACEHOLDER,
    ) as root:
        add_interpreter(target.debs / "usr", root)
        _standard_library(target, root / LIBRARY)
        headers = root / f"include/python{PYTHON}"
        shutil.copytree(target.debs / f"usr/include/python{PYTHON}", headers)
        # Debian's own includes the one of the processor that is compiled for.
        configuration = f"usr/include/{target.processor}-linux-gnu/python{PYTHON}/pyconfig.h"
        shutil.copy(target.debs / configuration, headers)


def _standard_library(target: Platform, folder: Path) -> None:
    copy_standard_library(folder, without=("_sysconfigdata*", "lib-dynload"))
    debian = target.debs / "usr" / LIBRARY
    modules = folder / "lib-dynload"
    modules.mkdir()
    for module in (debian / "lib-dynload").iterdir():
        if not LEFT_OUT.match(module.name):
            shutil.copy(module, modules)
    (variables,) = (p for p in debian.glob("_sysconfigdata*.py") if not p.is_symlink())
    text = re.sub(r"'/usr(/|')", rf"'{PLACEHOLDER}\1", variables.read_text())
    text = text.replace(f"/lib/{target.processor}-linux-gnu", "/lib")
    (folder / variables.name).write_text(text)
