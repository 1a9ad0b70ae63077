# SPDX-License-Identifier: Apache-2.0
"""What the installed extension is made of, and how a build that cannot work stops."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

import tvm_ffi_object_loader
from folders import ROOT
from instances import matrix_but
from processors import PROCESSOR
from tvm_ffi_object_loader import _native, _requirements

EXTENSION = pathlib.Path(_native.__file__)
# Names of passes that every LLVM code generator registers.
CODE_GENERATOR_STRINGS = (
    b"DAG->DAG",
    b"Machine Instruction Scheduler",
    b"Greedy Register Allocator",
)


def source(name: str) -> pathlib.Path:
    """Return a file of the project's sources, which the tests may have been copied without."""
    path = ROOT.resolve() / name
    if not path.exists():
        pytest.skip(f"the project's {name} is not here")
    return path


def readelf(*options: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf (binutils) is not installed")
    command = ["readelf", "--wide", *options, os.fspath(EXTENSION)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed_libraries() -> set[str]:
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic")))


def test_extension_exports_its_init_function_and_what_debuggers_look_for() -> None:
    defined = {
        fields[7]
        for fields in (line.split() for line in readelf("--dyn-syms").splitlines())
        if len(fields) >= 8
        and fields[0].rstrip(":").isdigit()
        and fields[3] != "SECTION"
        and fields[6] != "UND"
    }
    assert defined == {
        "PyInit__native",
        "__jit_debug_descriptor",
        "__jit_debug_register_code",
    }


def test_extension_needs_only_tvm_ffi_llvm_and_the_system() -> None:
    # The sanitizers' own libraries belong to a build with OBJECT_LOADER_SANITIZE.
    system = (
        rf"lib(c|m|stdc\+\+|gcc_s|asan|ubsan|tsan)\.so\.\d+|{re.escape(PROCESSOR.dynamic_linker)}"
    )
    others = {name for name in needed_libraries() if not re.fullmatch(system, name)}
    major, minor, _ = _native.llvm_version.split(".", 2)
    assert others in ({"libtvm_ffi.so"}, {"libtvm_ffi.so", f"libLLVM.so.{major}.{minor}"})


def test_installed_extension_is_stripped() -> None:
    if not list(EXTENSION.parent.parent.glob("tvm_ffi_object_loader-*.dist-info")):
        pytest.skip("the extension in use is a development build, not the installed one")
    sections = readelf("--sections")
    assert ".dynsym" in sections
    assert ".symtab" not in sections
    assert ".debug_" not in sections


def test_extension_names_no_folder_that_it_was_built_in() -> None:
    if ".debug_" in readelf("--sections"):
        pytest.skip("debug information names the system's headers")
    content = EXTENSION.read_bytes()
    assert b"/native/ffi/imports.cc" in content  # in messages, where it starts with a dot
    assert re.findall(rb"(?<![!-~])/[!-~]+[.](?:cc|cpp|h|S)(?![!-~])", content) == []


def test_static_extension_has_no_code_generator() -> None:
    if any(name.startswith("libLLVM") for name in needed_libraries()):
        pytest.skip("LLVM is a shared library here")
    content = EXTENSION.read_bytes()
    assert [name for name in CODE_GENERATOR_STRINGS if name in content] == []


def test_the_strings_that_tell_a_code_generator_are_in_one() -> None:
    llvmlite = pytest.importorskip("llvmlite")
    binding = pathlib.Path(llvmlite.__file__).parent / "binding" / "libllvmlite.so"
    if not binding.exists():
        pytest.skip("this llvmlite has no library of its own")
    content = binding.read_bytes()
    assert [name for name in CODE_GENERATOR_STRINGS if name not in content] == []


def test_the_package_has_the_licence_of_all_that_it_contains() -> None:
    try:
        distribution = importlib.metadata.distribution("tvm-ffi-object-loader")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package in use is a development build, not the installed one")
    carried = {
        pathlib.PurePath(file).name: file.read_text()
        for file in distribution.files or []
        if ".dist-info/licenses/" in str(file)
    }
    contains = {
        "LICENSE": "Apache License",
        "LLVM.txt": "LLVM Exceptions to the Apache 2.0 License",
        "nanobind.txt": "Wenzel Jakob",
        "robin-map.txt": "Thibaut Goetghebuer-Planchon",
        "GPL-3.0.txt": "GNU GENERAL PUBLIC LICENSE\n                       Version 3",
        "GCC-exception-3.1.txt": "GCC RUNTIME LIBRARY EXCEPTION",
        "zlib.txt": "Jean-loup Gailly",
        "zstd.txt": "Zstandard",
    }
    assert set(carried) == set(contains)
    assert [name for name, text in contains.items() if text not in carried[name]] == []
    listed = set(distribution.metadata["License-Expression"].split(" AND "))
    assert listed == {
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-3-Clause",
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        "MIT",
        "Zlib",
    }


def test_the_recipe_lists_the_licences_of_what_is_linked_there() -> None:
    recipe = source("recipe/recipe.yaml").read_text()
    (expression,) = re.findall(r'(?m)^license = "(.*)"$', source("pyproject.toml").read_text())
    # A shared LLVM has zlib and zstd of its own.
    assert re.findall(r"(?m)^  license: (.*)$", recipe) == [expression.removesuffix(" AND Zlib")]
    files = set(re.findall(r"(?m)^    - (LICENSE|licenses/.*)$", recipe))
    texts = {f"licenses/{path.name}" for path in source("licenses").glob("*.txt")}
    assert files == {"LICENSE", *texts} - {"licenses/zlib.txt", "licenses/zstd.txt"}


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("pyproject.toml", r'(?m)^version = "(.*)"'),
        ("recipe/recipe.yaml", r'(?m)^  version: "(.*)"'),
    ],
)
def test_version_is_the_same_everywhere(file: str, pattern: str) -> None:
    assert re.findall(pattern, source(file).read_text()) == [tvm_ffi_object_loader.__version__]


def test_addresses_are_the_same_everywhere() -> None:
    text = source("pyproject.toml").read_text()
    urls = dict(re.findall(r'(?m)^(\w+) = "(https://.*)"$', text))
    recipe = re.findall(
        r"(?m)^  (?:homepage|repository): (.*)$", source("recipe/recipe.yaml").read_text()
    )
    (repository,) = set(recipe)
    assert urls == {
        "Homepage": repository,
        "Repository": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }


def test_conda_environment_has_the_llvm_of_the_recipe() -> None:
    series = source("recipe/conda_build_config.yaml").read_text().split()[-1].strip('"')
    environment = source("environment.yml").read_text()
    assert re.findall(r"- (llvm(?:dev)?) =(.*)", environment) == [
        ("llvmdev", f"{series}.*"),
        ("llvm", f"{series}.*"),
    ]


def configure(folder: pathlib.Path, *definitions: str, **environment: str) -> str:
    """Configure the project in `folder`, and return what is said up to the error that stops it."""
    sources = source("CMakeLists.txt").parent
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"CMAKE_ARGS", "CONDA_BUILD", "CONDA_PREFIX", "LLVM_DIR", "LLVM_ROOT"}
    }
    if shutil.which("ninja"):
        inherited["CMAKE_GENERATOR"] = "Ninja"
    options = [f"-D{definition}" for definition in definitions]
    result = subprocess.run(
        ["cmake", "-S", sources, "-B", folder, f"-DPython_EXECUTABLE={sys.executable}", *options],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode != 0
    assert result.stderr.count("CMake Error") == 1, result.stderr
    return " ".join((result.stdout + result.stderr).split())


def fake_llvm(folder: pathlib.Path, version: str) -> pathlib.Path:
    folder.mkdir(parents=True)
    (folder / "LLVMConfig.cmake").write_text(f"set(LLVM_PACKAGE_VERSION {version})\n")
    return folder


@pytest.mark.parametrize(
    "given_by", matrix_but(["definition", "environment", "conda-build"], "definition")
)
def test_too_old_llvm_stops_the_build(tmp_path: pathlib.Path, given_by: str) -> None:
    old = fake_llvm(tmp_path / "prefix" / "lib" / "cmake" / "llvm", "21.1.8")
    build = tmp_path / "build"
    if given_by == "definition":
        message = configure(build, f"LLVM_DIR={old}")
    elif given_by == "environment":
        message = configure(build, LLVM_DIR=os.fspath(old))
    else:
        message = configure(build, CONDA_BUILD="1", PREFIX=os.fspath(tmp_path / "prefix"))
    assert f"LLVM 21.1.8 in {old} is too old." in message
    assert "LLVM 22 or newer (22 and 23 are supported)" in message
    assert "conda install -c conda-forge llvmdev llvm" in message


def test_too_old_llvm_of_the_conda_environment_is_passed_over(tmp_path: pathlib.Path) -> None:
    old = fake_llvm(tmp_path / "prefix" / "lib" / "cmake" / "llvm", "14.0.6")
    # This one is too old as well, which tells that it was taken.
    static = fake_llvm(tmp_path / "static", "21.1.8")
    code = f"def get_cmake_dir():\n    return {os.fspath(static)!r}\n"
    (tmp_path / "mlc_llvm_static.py").write_text(code)
    environment = {
        "CONDA_PREFIX": os.fspath(tmp_path / "prefix"),
        "PYTHONPATH": os.fspath(tmp_path),
    }
    message = configure(tmp_path / "build", **environment)
    assert f"LLVM 14.0.6 in {old}, of the active conda environment, is too old" in message
    assert f"LLVM 21.1.8 in {static} is too old." in message


def test_new_enough_llvm_of_the_conda_environment_is_taken(tmp_path: pathlib.Path) -> None:
    # Without what a real one has, configuring stops later.
    new = fake_llvm(tmp_path / "prefix" / "lib" / "cmake" / "llvm", "22.1.0")
    with (new / "LLVMConfig.cmake").open("a") as file:
        file.write('message(FATAL_ERROR "this one is taken")\n')
    message = configure(tmp_path / "build", CONDA_PREFIX=os.fspath(tmp_path / "prefix"))
    assert "this one is taken" in message


def test_llvm_dir_without_llvm_stops_the_build(tmp_path: pathlib.Path) -> None:
    message = configure(tmp_path / "build", f"LLVM_DIR={tmp_path}")
    assert f"No LLVMConfig.cmake in {tmp_path} (from LLVM_DIR)." in message
    assert "LLVM 22 or newer" in message


def test_no_llvm_at_all_stops_the_build(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mlc_llvm_static.py").write_text("raise ImportError\n")
    message = configure(
        tmp_path / "build", "CMAKE_DISABLE_FIND_PACKAGE_LLVM=ON", PYTHONPATH=os.fspath(tmp_path)
    )
    assert "No LLVM was found." in message
    assert "pip install mlc-llvm-static" in message


def test_headers_of_an_old_tvm_ffi_stop_the_build(tmp_path: pathlib.Path) -> None:
    for package, module in (("nanobind", "__main__"), ("tvm_ffi", "config")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / f"{module}.py").write_text(f"print({os.fspath(tmp_path)!r})\n")
    message = configure(tmp_path / "build", PYTHONPATH=os.fspath(tmp_path))
    assert f"The apache-tvm-ffi in {tmp_path} is too old to build with" in message
    assert "install 0.1.15.post1 or newer" in message


@pytest.mark.slow
@pytest.mark.parametrize("across", [False, True], ids=["here", "across"])
def test_build_for_another_processor_takes_its_packages(
    tmp_path: pathlib.Path, across: bool
) -> None:
    target = pathlib.Path(sysconfig.get_path("platlib")) / "tvm_ffi"
    if not target.exists():
        pytest.skip("apache-tvm-ffi is not in this Python's own folder")
    # As when a Python of the building machine speaks for the other, and imports its own packages.
    imported = tmp_path / "site-packages" / "tvm_ffi"
    for package, module in (("nanobind", "__main__"), ("tvm_ffi", "config")):
        folder = imported.parent / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / f"{module}.py").write_text(f"print({os.fspath(imported)!r})\n")
    other = ("CMAKE_SYSTEM_NAME=Linux", "CMAKE_SYSTEM_PROCESSOR=aarch64") if across else ()
    message = configure(tmp_path / "build", *other, PYTHONPATH=os.fspath(imported.parent))
    # There are no headers in either, which tells where they were looked for.
    used = target if across else imported
    assert f"The apache-tvm-ffi in {used} is too old to build with" in message


@pytest.mark.parametrize(
    ("file", "built_with", "runs_with"),
    [
        ("pyproject.toml", r'requires = .*"apache-tvm-ffi(.*)"', r'dependencies = .*ffi(.*)"'),
        ("recipe/recipe.yaml", r"host:[^:]*?ffi (.*)", r"  run:[^:]*?ffi (.*)"),
        ("environment.yml", r"apache-tvm-ffi (.*)", None),
    ],
)
def test_tvm_ffi_is_required_alike_everywhere(
    file: str, built_with: str, runs_with: str | None
) -> None:
    text = source(file).read_text()
    (built,) = re.findall(built_with, text)
    assert built == ">=0.1.15.post1"
    if runs_with:
        oldest = ".".join(map(str, _requirements.OLDEST_TVM_FFI))
        assert re.findall(runs_with, text) == [f">={oldest},!=0.1.13"]


@pytest.mark.parametrize(
    ("system", "processor"),
    [("Linux", "riscv64"), ("Darwin", "arm64"), ("Darwin", "x86_64"), ("Windows", "AMD64")],
)
def test_unsupported_platform_stops_the_build(
    tmp_path: pathlib.Path, system: str, processor: str
) -> None:
    message = configure(
        tmp_path / "build", f"CMAKE_SYSTEM_NAME={system}", f"CMAKE_SYSTEM_PROCESSOR={processor}"
    )
    assert (
        f"tvm-ffi-object-loader supports Linux on x86-64 and AArch64 only, "
        f"not {system} on {processor}." in message
    )


@pytest.mark.parametrize(
    ("variable", "value", "static_llvm"),
    [
        ("UNRELATED", "1", True),
        ("LLVM_DIR", "", True),
        ("LLVM_DIR", "/opt/llvm/lib/cmake/llvm", False),
        ("LLVM_ROOT", "/opt/llvm", False),
        ("CMAKE_ARGS", "-DLLVM_DIR=/opt/llvm/lib/cmake/llvm", False),
        ("CONDA_BUILD", "1", False),
    ],
)
def test_static_llvm_is_required_only_when_no_other_is_given(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, static_llvm: bool
) -> None:
    backend = pytest.importorskip("scikit_build_core.build")
    sources = source("pyproject.toml").parent
    for name in ("LLVM_DIR", "LLVM_ROOT", "CMAKE_ARGS", "CONDA_BUILD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.chdir(sources)
    requirements = backend.get_requires_for_build_wheel({})
    assert any(name.startswith("mlc-llvm-static") for name in requirements) == static_llvm
