# SPDX-License-Identifier: Apache-2.0
"""Build the recipe against the stand-in channel, and install the package into a fresh prefix.

usage: build.py WORK [PLATFORM]   (the folder with channel/; PLATFORM/out and PLATFORM/prefix are
                                  made there; without PLATFORM it is the one of this machine)

Another platform is built for across, and its package is not run.

Last comes a control, to see that the check of libraries can fail: without `llvm` in host nothing
makes the package depend on libLLVM, and its build must end in an overlinking error.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import time
from pathlib import Path

from rattler import Channel, Subdir, VirtualPackage, install, solve
from rattler.index import index_fs
from rattler_build import (
    JinjaConfig,
    PlatformConfig,
    RattlerBuildError,
    RenderConfig,
    Stage0Recipe,
    ToolConfiguration,
    VariantConfig,
)
from rattler_build.progress import LogEvent

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
BUILD_PLATFORM = "linux-64"
PLATFORM = sys.argv[2] if len(sys.argv) > 2 else BUILD_PLATFORM
PROCESSORS = {"linux-64": ("x86_64", 62), "linux-aarch64": ("aarch64", 183)}  # and its e_machine
CHANNEL = (Path(sys.argv[1]).resolve() / "channel").as_uri()
WORK = Path(sys.argv[1]).resolve() / PLATFORM
SPEC = "tvm-ffi-object-loader"


class Log:
    """Receive the events of a build, and keep its messages: they matter only if it fails."""

    def __init__(self) -> None:
        self.text = ""

    def on_log(self, event: LogEvent) -> None:
        self.text += f"{event.message.rstrip()}\n"

    def on_other(self, event: object) -> None:
        pass

    on_build_step = on_download_start = on_download_progress = on_download_complete = on_other


def build(recipe: Path, output: Path, log: Log, *, test: bool) -> Path:
    platform = PlatformConfig(
        target_platform=PLATFORM, host_platform=PLATFORM, build_platform=BUILD_PLATFORM
    )
    series = VariantConfig.from_conda_build_config(
        SOURCE / "recipe/conda_build_config.yaml", JinjaConfig(platform=platform)
    )
    # What renders a recipe is told the platforms, what builds it looks for them in the variant.
    platforms = VariantConfig({"host_platform": [PLATFORM], "build_platform": [BUILD_PLATFORM]})
    variants = series.merge(VariantConfig.from_file(HERE / "variants.yaml")).merge(platforms)
    (rendered,) = Stage0Recipe.from_file(recipe).render(variants, RenderConfig(platform=platform))
    result = rendered.run_build(
        tool_config=ToolConfiguration(test_strategy="native" if test else "skip"),
        output_dir=output,
        channels=[CHANNEL],
        progress_callback=log,
    )
    (package,) = result.packages
    return Path(package)


def control(prefix: Path) -> None:
    """Pack the installed files again, without ``llvm`` in host: that must be refused."""
    text = (SOURCE / "recipe/recipe.yaml").read_text()
    for pattern, replacement in (
        (r"(?m)^    - llvm \$.*\n", ""),
        (r"(?m)^  path: \.\.$", f"  path: {SOURCE}"),
        # The same extension, and half of the time.
        (
            r"(?m)^    - .* -m pip wheel .*\n    - .* -m pip install .*",
            f"    - cp -r {prefix}/lib/python*/site-packages/tvm_ffi_object_loader* $SP_DIR",
        ),
    ):
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, pattern
    recipe = WORK / "control/recipe/recipe.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(text)
    log = Log()
    try:
        build(recipe, WORK / "control/out", log, test=False)
    except RattlerBuildError as error:
        # Anything else that stops the build is no proof.
        message = f"{log.text}{error}"
        if "Overlinking against: lib/libLLVM.so." not in message:
            raise SystemExit(f"the control failed for another reason:\n{message}") from error
        return
    raise SystemExit("the build without llvm in host did not end in an overlinking error")


async def install_fresh(output: Path, prefix: Path) -> list[str]:
    """Install the single spec, and return what the package depends on."""
    await index_fs(output)
    records = await solve(
        sources=[Channel(output.as_uri()), Channel(CHANNEL)],
        specs=[SPEC],
        platforms=[PLATFORM, "noarch"],
        virtual_packages=VirtualPackage.detect(),
    )
    await install(records, target_prefix=prefix, platform=Subdir(PLATFORM))
    (package,) = [record for record in records if record.name.normalized == SPEC]
    print("   installed:", *sorted(f"{r.name.normalized}={r.version}" for r in records))
    assert package.subdir == PLATFORM
    return list(package.depends)


def check_installation(prefix: Path) -> None:
    """Look whether the package says where it was built."""
    (metadata,) = prefix.glob("lib/python*/site-packages/tvm_ffi_object_loader-*.dist-info")
    assert not (metadata / "direct_url.json").exists()


def check_extension(prefix: Path) -> None:
    """Look whether the extension is named and made for the platform's processor."""
    processor, machine = PROCESSORS[PLATFORM]
    (extension,) = prefix.glob("lib/python*/site-packages/tvm_ffi_object_loader/_native.*.so")
    assert extension.name.endswith(f"-{processor}-linux-gnu.so"), extension
    header = extension.read_bytes()[:20]
    assert header[:6] == b"\x7fELF\x02\x01", header
    assert int.from_bytes(header[18:20], "little") == machine, header


def main() -> None:
    def done(step: str) -> None:
        print(f"   {time.monotonic() - started:5.0f} s  {step}", flush=True)

    started = time.monotonic()
    asyncio.run(index_fs(WORK.parent / "channel"))
    WORK.mkdir(exist_ok=True)
    log = Log()
    try:
        package = build(SOURCE / "recipe/recipe.yaml", WORK / "out", log, test=True)
    except RattlerBuildError as error:
        raise SystemExit(f"{log.text}{error}") from error
    shutil.copy(package, WORK)
    tested = "built and tested" if PLATFORM == BUILD_PLATFORM else "built"
    done(f"{tested} {package.name}, {package.stat().st_size // 1000} kB")
    depends = asyncio.run(install_fresh(WORK / "out", WORK / "prefix"))
    print("   depends:", *depends, sep="\n      ")
    assert any(re.fullmatch(r"libllvm22 >=22\.1\.\d+,<22\.2(\.0a0)?", spec) for spec in depends)
    check_installation(WORK / "prefix")
    check_extension(WORK / "prefix")
    done("installed into a fresh prefix")
    control(WORK / "prefix")
    done("control: without llvm in host it is an overlinking error")


if __name__ == "__main__":
    main()
    # A worker thread of rattler may still ask for the interpreter's lock, which ends in a crash
    # (seen in one of four runs) when the interpreter is on its way out.
    sys.stdout.flush()
    os._exit(0)
