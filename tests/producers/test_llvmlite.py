# SPDX-License-Identifier: Apache-2.0
"""llvmlite: objects of every code model and relocation model that it emits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from outcomes import outcome

llvm = pytest.importorskip("llvmlite.binding", reason="the package llvmlite is not here")

SOURCE = Path(__file__).parent / "sources" / "functions.ll"
CODE_MODELS = ["jitdefault", "default", "small", "medium", "large"]
RELOCATION_MODELS = ["default", "static", "pic", "dynamicnopic"]


def emit(code: str, relocation: str, level: int) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(SOURCE.read_text())
    module.triple = llvm.get_process_triple()
    module.verify()
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(codemodel=code, reloc=relocation, opt=level)
    emitted: bytes = machine.emit_object(module)
    return emitted


def results(functions: tol.Dylib | tvm_ffi.Module) -> list[Any]:
    pick, choose = functions.get_function("pick"), functions.get_function("choose")
    return [*(pick(n) for n in range(6)), *(outcome(choose, n) for n in range(5))]


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize(
    ("code", "relocation"), [*itertools.product(CODE_MODELS, RELOCATION_MODELS)], ids=str
)
def test_results_are_those_of_the_dlopened_build(
    session: tol.Session, compile: Compiler, tmp_path: Path, code: str, relocation: str, level: int
) -> None:
    independent = tmp_path / "pic.o"
    independent.write_bytes(emit("default", "pic", level))
    expected = results(compile.dlopen(independent))
    assert expected[-1] == (ValueError, "not from IR..")
    assert results(session.load(emit(code, relocation, level))) == expected
