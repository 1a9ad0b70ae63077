# SPDX-License-Identifier: Apache-2.0
"""conda-forge's packages of compilers, for compilers that are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from conda_package import Channel, Platform

BUILD_SUBDIR = "linux-64"
# The one that recipe/conda_build_config.yaml asks for. What it has are this machine's libraries.
SYSROOT = "2.28"


@dataclass(frozen=True)
class Toolchain:
    """Compilers that run on x86-64, and what they compile for."""

    platform: Platform
    version: str
    glibc: str
    loader: str
    c: str
    cxx: str
    flags: str
    # What the packages hold: the path in the environment and the content of each program.
    programs: Mapping[str, str] = field(default_factory=dict)
    cmake: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def add_toolchain(channel: Channel, toolchain: Toolchain) -> None:
    _libraries(channel, toolchain)
    name, version = toolchain.platform.subdir, toolchain.version
    major = version.split(".")[0]
    # The flags are those of conda-forge's compiler packages, which a build must get along with.
    prefix = "${PREFIX:-$CONDA_PREFIX}"
    flags = (
        f"{toolchain.flags} -fPIC -fstack-protector-strong -fno-plt "
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
            *toolchain.cmake,
        ]
    )
    c_variables = {"CC": toolchain.c, "CFLAGS": flags, "LDFLAGS": linking, "CMAKE_ARGS": cmake}
    _compiler(
        channel,
        f"gcc_{name}",
        toolchain,
        {**c_variables, **toolchain.variables},
        [f"sysroot_{name}"],
        [f"libgcc >={major}"],
        toolchain.programs,
    )
    _compiler(
        channel,
        f"gxx_{name}",
        toolchain,
        {"CXX": toolchain.cxx, "CXXFLAGS": f"-fvisibility-inlines-hidden {flags}"},
        [f"gcc_{name} =={version}"],
        [f"libstdcxx >={major}", f"libgcc >={major}"],
        {},
    )


def _libraries(channel: Channel, toolchain: Toolchain) -> None:
    platform, glibc, version = toolchain.platform, toolchain.glibc, toolchain.version
    # The build tools read from the sysroot which libraries are the system's.
    with channel.package(
        f"sysroot_{platform.subdir}",
        SYSROOT,
        subdir="noarch",
        run_exports={"strong": [f"__glibc >={glibc},<3.0.a0"]},
    ) as root:
        system = ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"]
        folder = root / f"{platform.processor}-conda-linux-gnu/sysroot/lib64"
        platform.copy_libraries([*system, toolchain.loader], folder)
    with channel.package("libgcc", version, subdir=platform.subdir) as root:
        platform.copy_libraries(["libgcc_s.so.1"], root / "lib")
    with channel.package(
        "libstdcxx", version, subdir=platform.subdir, depends=[f"libgcc =={version}"]
    ) as root:
        platform.copy_libraries(["libstdc++.so.6"], root / "lib")


def _compiler(
    channel: Channel,
    name: str,
    toolchain: Toolchain,
    variables: Mapping[str, str],
    depends: list[str],
    exports: list[str],
    programs: Mapping[str, str],
) -> None:
    with channel.package(
        name,
        toolchain.version,
        subdir=BUILD_SUBDIR,
        depends=depends,
        run_exports={"strong": exports},
    ) as root:
        for path, content in programs.items():
            program = root / path
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(content)
            program.chmod(0o755)
        script = root / f"etc/conda/activate.d/activate-{name}.sh"
        script.parent.mkdir(parents=True)
        script.write_text("".join(f'export {k}="{v}"\n' for k, v in variables.items()))
