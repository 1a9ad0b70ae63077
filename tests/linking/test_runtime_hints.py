# SPDX-License-Identifier: Apache-2.0
"""What is missing because a compiler's driver would have linked it: the error names the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

CALLS = '#include "safe_call.h"\nlong {0}(void);\nEXPORT(run) {{ RETURN({0}()); }}\n'


def undefined(objects: object, session: tol.Session) -> tol.UndefinedSymbolError:
    with pytest.raises(tol.UndefinedSymbolError) as caught:
        session.load(objects)  # type: ignore[arg-type]
    return caught.value


def library(path: Path, *functions: str) -> Path:
    """Make a library whose functions return 1, 2, …."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "".join(
        f"long {name}(void) {{ return {n}; }}\n" for n, name in enumerate(functions, 1)
    )
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def of_gcc(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_file():
        pytest.skip(f"gcc has no {name}")
    return path


@pytest.mark.parametrize(
    ("flags", "body", "file"),
    [
        (
            "-O2 -fopenmp",
            "long n = INT(0), s = 0;\n#pragma omp parallel for reduction(+ : s)\n"
            "  for (long i = 0; i < n; ++i) s += 2;\n  RETURN(s / 2);",
            "libgomp.so.1",
        ),
        ("-O1", "extern long double expq_of(long); RETURN(INT(0));", ""),
        (
            "-O0 -fsanitize=undefined",
            "long n = INT(0); RETURN(n + (1 << (n & 7)) * 0);",
            "libubsan",
        ),
        ("-O0 --coverage", "RETURN(INT(0));", "libgcov.a"),
        (
            "-O2",
            "__int128 wide = INT(0), got;\n  __atomic_load(&wide, &got, 5); RETURN((long)got);",
            "libatomic.so.1",
        ),
    ],
    ids=["openmp", "nothing", "ubsan", "coverage", "atomic"],
)
def test_what_it_names_supplies_what_is_missing(
    compile: Compiler,
    session: tol.Session,
    flags: str,
    body: str,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GCOV_PREFIX", str(tmp_path))
    path = compile(f'#include "safe_call.h"\nEXPORT(run) {{ {body} }}\n', *flags.split())
    if not file:
        assert session.load(path)["run"](5) == 5
        return
    try:
        session.load(path)
    except tol.UndefinedSymbolError as caught:
        error = caught
        (named,) = error.libraries
        assert Path(named).name.startswith(file)
        assert f", {named}: " in str(error)
    else:
        pytest.skip("the process has it")
    if named.endswith(".a"):
        assert f"load it together with the object: load([…, {named!r}])" in str(error)
        assert session.load([path, named])["run"](5) == 5
    else:
        assert f"link_order=[{named!r}]" in str(error)
        assert session.load(path, link_order=[named])["run"](5) == 5


def test_a_sanitizer_that_has_to_be_there_before_python(
    compile: Compiler, session: tol.Session
) -> None:
    of_gcc("libasan.so")
    source = '#include "safe_call.h"\nEXPORT(run) { long a[2] = {0}; RETURN(a[INT(0) & 1]); }\n'
    path = compile(source, "-O0", "-fPIC", "-fsanitize=address")
    error = undefined(path, session)
    assert error.libraries == ()
    (preload,) = (line for line in str(error).splitlines() if "LD_PRELOAD=" in line)
    named = preload.split("LD_PRELOAD='")[1].split("'")[0]
    assert "libasan.so" in named or "asan-" in named
    # The loader throws, too: without the C++ library the sanitizer then ends the process.
    script = (
        "import sys, tvm_ffi_object_loader as tol\n"
        "try: tol.ObjectLoader(link_order=[]).load(b'no object')\n"
        "except tol.ObjectFormatError: print(tol.load_module(sys.argv[1]).run(1))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "LD_PRELOAD": named, "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout.split() == ["0"], result.stderr


@pytest.fixture
def cute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of packages that has one like CuTe DSL's, with a runtime of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("CUTE_DSL_LIBS", raising=False)
    (tmp_path / "nvidia_cutlass_dsl").mkdir()
    (tmp_path / "nvidia_cutlass_dsl/__init__.py").write_text("raise SystemExit('imported')\n")
    return tmp_path


@pytest.mark.parametrize("folder", ["nvidia_cutlass_dsl/lib", "nvidia_cutlass_dsl/cu13/lib"])
def test_a_runtime_in_a_package_is_found_without_importing_it(
    compile: Compiler, session: tol.Session, cute: Path, folder: str
) -> None:
    path = library(cute / folder / "libcute_dsl_runtime.so", "_cuNothing", "_cudaLaunchKernelEx")
    error = undefined(compile(CALLS.format("_cudaLaunchKernelEx")), session)
    assert error.libraries == (str(path),)
    assert str(error).endswith(
        f"It is in CuTe DSL's runtime library, {path}: put it into link_order, "
        f"or into the session's libraries: link_order=[{str(path)!r}]"
    )
    assert "nvidia_cutlass_dsl" not in sys.modules
    source = compile(CALLS.format("_cudaLaunchKernelEx"))
    with tol.Session(libraries=error.libraries) as other:
        assert other.load(source)["run"]() == 2


def test_a_library_that_lacks_the_symbol_is_passed_over(
    compile: Compiler, session: tol.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old/libcudart.so.11", tmp_path / "new/libcudart.so.12"
    library(old, "cudaOlder")
    library(new, "cudaOlder", "cudaNewer")
    damaged = tmp_path / "damaged/libcudart.so.13"
    damaged.parent.mkdir()
    damaged.write_bytes(old.read_bytes()[:3000])
    folders = ":".join(str(path.parent) for path in (damaged, old, new))
    monkeypatch.setenv("LD_LIBRARY_PATH", folders)
    error = undefined(compile(CALLS.format("cudaNewer")), session)
    assert error.libraries == (str(new),)


def test_a_search_path_of_anything_hides_nothing(
    compile: Compiler, session: tol.Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = library(tmp_path / "nvidia_cutlass_dsl/lib/libcute_dsl_runtime.so", "_cuA")
    entries = [b"bytes", 5, None, "null\0character", "long" * 5000, str(tmp_path)]
    monkeypatch.setattr(sys, "path", entries)
    monkeypatch.setenv("CUTE_DSL_LIBS", "long" * 5000)
    error = undefined(compile(CALLS.format("_cuA")), session)
    assert error.libraries == (str(runtime),)


def test_one_that_is_not_installed_says_what_brings_it(
    compile: Compiler, session: tol.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    path = compile(CALLS.format("_cudaOfNoVersion"))
    monkeypatch.delenv("CUTE_DSL_LIBS", raising=False)
    error = undefined(path, session)
    assert error.libraries == ()
    assert str(error).endswith(
        "It is in CuTe DSL's runtime library, libcute_dsl_runtime.so, which was not found here: "
        "pip install nvidia-cutlass-dsl brings it"
    )


def test_each_of_several_libraries_is_named(
    compile: Compiler, session: tol.Session, cute: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = library(cute / "nvidia_cutlass_dsl/lib/libcute_dsl_runtime.so", "_cuA", "_cuB")
    blas = library(cute / "nvidia/cublas/lib/libcublas.so.12", "cublasCreate_v7")
    source = (
        '#include "safe_call.h"\nlong _cuA(void), _cuB(void), cublasCreate_v7(void), ours(void);\n'
        "EXPORT(run) { RETURN(_cuA() + _cuB() + cublasCreate_v7() + ours()); }\n"
    )
    error = undefined(compile(source), session)
    assert error.symbols == ("_cuA", "_cuB", "cublasCreate_v7", "ours")
    assert error.libraries == (str(runtime), str(blas))
    first, second = str(error).splitlines()[-2:]
    assert first.startswith("2 of them are in CuTe DSL's runtime library")
    assert second.startswith("cublasCreate_v7 is in cuBLAS")


def test_names_that_are_anybodys_are_explained_by_a_library_alone(
    compile: Compiler, session: tol.Session
) -> None:
    error = undefined(compile(CALLS.format("nobodys_q")), session)
    assert str(error).splitlines()[-1].startswith("Neither dylib")
    device_code = "__cudaRegisterLinkedBinary_1f2e"  # made by nvcc -dlink, and in no library
    error = undefined(compile(CALLS.format(device_code)), session)
    assert "nvcc -dlink" in str(error)
    assert str(error).splitlines()[-1].startswith("Neither dylib")
    error = undefined(compile(CALLS.format("unknownq")), session)
    assert str(error).splitlines()[-1].startswith("Neither dylib")


def fails(load: object) -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        load()  # type: ignore[operator]
    return caught.value


def test_whoever_loads_is_told(compile: Compiler, cute: Path, tmp_path: Path) -> None:
    runtime = library(cute / "nvidia_cutlass_dsl/lib/libcute_dsl_runtime.so", "_cuA")
    path = tmp_path / "kernel.o"
    shutil.copy(compile(CALLS.format("_cuA")), path)

    def by_name() -> None:
        with tol.register_as_orcjit():
            get: Sequence[tvm_ffi.Function] = [
                tvm_ffi.get_global_func(f"tvm_ffi_orcjit.{name}")
                for name in ("GlobalDefaultSession", "SessionLoadModule")
            ]
            get[1](get[0](), [str(path)], "")

    for load in (lambda: tvm_ffi.load_module(str(path)), by_name):
        error = fails(load)
        assert isinstance(error, tol.UndefinedSymbolError)
        assert f"CuTe DSL's runtime library, {runtime}: " in str(error)
    error = fails(lambda: tvm_ffi.load_module(str(path)))
    assert isinstance(error, tol.UndefinedSymbolError)
    assert error.libraries == (str(runtime),)
