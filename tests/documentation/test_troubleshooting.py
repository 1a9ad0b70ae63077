# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md: the messages that it quotes are real."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from folders import ROOT
from pages import Page

PAGE = Page("docs/troubleshooting.md")

pytestmark = PAGE.needed


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def undefined_symbol(compile: Compiler) -> str:
    source = '#include "safe_call.h"\nlong scale(long);\nEXPORT(run) { RETURN(scale(INT(0))); }\n'
    shutil.copy(compile.cxx(source), "app.o")
    with tol.Session() as session, pytest.raises(tol.UndefinedSymbolError) as caught:
        session.load("app.o", name="app")
    return f"UndefinedSymbolError: {caught.value}"


def duplicate_symbol(compile: Compiler) -> str:
    source = '#include "safe_call.h"\nEXPORT(add) { RETURN(INT(0) + INT(1)); }\n'
    shutil.copy(compile(source), "add.o")
    with tol.Session() as session:
        dylib = session.load("add.o", name="math")
        with pytest.raises(tol.DuplicateSymbolError) as caught:
            dylib.load("add.o")
    return f"DuplicateSymbolError: {caught.value}"


def runtime_missing(compile: Compiler) -> str:
    """Return what is said where a package like CuTe DSL's has the library."""
    source = '#include "safe_call.h"\nlong _cudaLaunchKernelEx;\n'
    library = Path.cwd() / "nvidia_cutlass_dsl/lib/libcute_dsl_runtime.so"
    library.parent.mkdir(parents=True)
    subprocess.run(["gcc", "-shared", compile(source), "-o", library], check=True)
    source = (
        source.replace("long", "extern long") + "EXPORT(run) { RETURN(_cudaLaunchKernelEx); }\n"
    )
    shutil.copy(compile(source), "kernel.o")
    with pytest.MonkeyPatch.context() as patch, tol.Session() as session:
        patch.syspath_prepend(str(Path.cwd()))
        patch.delenv("CUTE_DSL_LIBS", raising=False)
        with pytest.raises(tol.UndefinedSymbolError) as caught:
            session.load("kernel.o", name="kernel")
        session.load("kernel.o", link_order=caught.value.libraries)
    return f"UndefinedSymbolError: {caught.value}"


def library_not_opened(compile: Compiler) -> str:
    empty = compile("int nothing;\n")
    gcc = ["gcc", "-shared", "-Wl,--no-as-needed"]
    subprocess.run([*gcc, empty, "-o", "libbar.so"], check=True)
    subprocess.run([*gcc, empty, "libbar.so", "-o", "libfoo.so"], check=True)
    Path("libbar.so").unlink()
    with tol.Session() as session, pytest.raises(tol.LinkError) as caught:
        session.load("libfoo.so")
    return f"LinkError: {caught.value}"


def llvm_too_old(compile: Compiler) -> str:
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are not installed")
    Path("llvm").mkdir()
    Path("llvm/LLVMConfig.cmake").write_text("set(LLVM_PACKAGE_VERSION 14.0.6)\n")
    result = subprocess.run(
        ["cmake", "-S", ROOT, "-B", "build", "-G", "Ninja", f"-DLLVM_DIR={Path.cwd()}/llvm"],
        capture_output=True,
        text=True,
    )
    return result.stderr.replace(f"{Path.cwd()}/llvm", "/usr/lib/llvm-14/lib/cmake/llvm")


def llvm_missing(compile: Compiler) -> str:
    """Return what Python says of an extension whose shared LLVM is gone."""
    empty = compile("int nothing;\n")
    gone = "libLLVM.so.22.1.gone"  # no name that this machine may have
    gcc = ["gcc", "-shared", "-Wl,--no-as-needed"]
    subprocess.run([*gcc, empty, "-o", gone, f"-Wl,-soname,{gone}"], check=True)
    subprocess.run([*gcc, empty, gone, "-o", "linked_to_llvm.so"], check=True)
    Path(gone).unlink()
    return last_line_of_import("import linked_to_llvm").replace(".gone", "")


def tvm_ffi_too_old(compile: Compiler) -> str:
    return last_line_of_import(
        "import tvm_ffi\n"
        "tvm_ffi.__version__, tvm_ffi.__version_tuple__ = '0.1.8.post2', (0, 1, 8)\n"
        "import tvm_ffi_object_loader"
    )


def tvm_ffi_that_differs(compile: Compiler) -> str:
    return last_line_of_import(
        "import tvm_ffi\n"
        "tvm_ffi.__version__, tvm_ffi.__version_tuple__ = '0.1.13', (0, 1, 13)\n"
        "kind = tvm_ffi.get_global_func('ffi.ModuleGetKind')\n"
        "other = lambda module: f'not {kind(module)}'\n"
        "tvm_ffi.register_global_func('ffi.ModuleGetKind', other, override=True)\n"
        "import tvm_ffi_object_loader"
    )


def tvm_ffi_with_less(compile: Compiler) -> str:
    return last_line_of_import(
        "import sys, tvm_ffi\n"
        "tvm_ffi.__version__, tvm_ffi.__version_tuple__ = '0.1.9', (0, 1, 9)\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.endswith('._native'):\n"
        "            raise ImportError('_native.so: undefined symbol: TVMFFISomethingNew')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "import tvm_ffi_object_loader"
    )


def last_line_of_import(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("begins", "produce"),
    [
        ("UndefinedSymbolError: app.o", undefined_symbol),
        ("UndefinedSymbolError: kernel.o", runtime_missing),
        ("DuplicateSymbolError:", duplicate_symbol),
        ("LinkError: libfoo.so", library_not_opened),
        ("LLVM 14.0.6", llvm_too_old),
        ("ImportError: libLLVM", llvm_missing),
        ("ImportError: tvm_ffi_object_loader needs apache", tvm_ffi_too_old),
        ("ImportError: tvm_ffi_object_loader needs more", tvm_ffi_with_less),
        ("ImportError: tvm_ffi_object_loader cannot work", tvm_ffi_that_differs),
    ],
)
def test_a_quoted_message_is_what_appears(
    compile: Compiler, begins: str, produce: Callable[[Compiler], str]
) -> None:
    (quoted,) = (block for block in PAGE.blocks("text") if block.startswith(begins))
    pattern = re.escape(" ".join(quoted.split())).replace("…", ".*")
    assert re.search(pattern, " ".join(produce(compile).split()))


def test_no_quoted_message_is_left_out() -> None:
    quoted = [block for block in PAGE.blocks("text") if re.match(r"\w+Error:|LLVM", block)]
    assert len(quoted) == 9
