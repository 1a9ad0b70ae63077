# SPDX-License-Identifier: Apache-2.0
"""Objects of both compilers, at every level of optimization and with the usual flags."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain
from instances import matrix_but
from processors import PROCESSOR

CALLS: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "constructs.c": [
        *(("jump", (n,)) for n in range(9)),
        *(("operate", (n, 30, 4)) for n in range(3)),
        ("through_addresses", ()),
        ("floats", (10,)),
        ("sort", ()),
        ("format", (0,)),
        ("format", (3,)),
        ("vectors", (3,)),
        ("memory", (7,)),
    ],
    "constructs.cc": [
        ("areas", (3,)),
        ("failures", (6,)),
        ("words", (2,)),
        ("folds", (4,)),
        ("lambdas", (5,)),
    ],
}
LEVELS = ["-O0", "-O1", "-O2", "-O3"]
SECTIONS = ("-ffunction-sections", "-fdata-sections")
FLAGS: list[tuple[str, ...]] = [
    *((level, "-fPIC") for level in LEVELS),
    *((level, "-fPIE", *more) for level, more in zip(LEVELS, [("-g",), SECTIONS] * 2, strict=True)),
    ("-O2", "-g", *SECTIONS, "-fPIC"),
]
FLAGS_FOR_C: list[tuple[str, ...]] = [
    ("-O2",),
    ("-Os", "-fPIC"),
    ("-O2", "-fno-plt", "-fPIC"),
    ("-O2", "-fstack-protector-all", PROCESSOR.branch_protection, "-fPIC"),
    ("-O2", "-fno-asynchronous-unwind-tables", "-fPIC"),
]

per_toolchain = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda chain: chain.name)


def results(functions: tol.Dylib | tvm_ffi.Module, source: str) -> list[int]:
    return [functions[name](*arguments) for name, arguments in CALLS[source]]


@functools.cache
def dlopened_results(compile: Compiler, source: str) -> list[int]:
    return results(compile.dlopen(compile(source, "-O1", "-fPIC")), source)


@per_toolchain
@pytest.mark.parametrize(
    ("source", "flags"),
    [
        pytest.param(source, flags, marks=[] if flags[0] == "-O2" else [pytest.mark.matrix])
        for source, flags in (
            *itertools.product(CALLS, FLAGS),
            *itertools.product(["constructs.c"], FLAGS_FOR_C),
        )
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_results_are_those_of_the_dlopened_build(
    session: tol.Session,
    compile: Compiler,
    source: str,
    flags: Sequence[str],
    toolchain: Toolchain,
) -> None:
    path = compile(source, *flags, toolchain=toolchain)
    assert results(session.load(path), source) == dlopened_results(compile, source)


@per_toolchain
def test_all_levels_in_one_process(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    dylibs = [
        session.load(compile(source, level, "-fPIC", toolchain=toolchain), name=f"{source} {level}")
        for source in CALLS
        for level in LEVELS
    ]
    for dylib in dylibs:
        source = dylib.name.split()[0]
        assert results(dylib, source) == dlopened_results(compile, source)


@per_toolchain
@pytest.mark.parametrize("flags", matrix_but([("-O0", "-g"), ("-O3",)], ("-O3",)), ids=" ".join)
def test_a_tvm_ffi_source(
    session: tol.Session, compile: Compiler, flags: Sequence[str], toolchain: Toolchain
) -> None:
    source = """
    #include <tvm/ffi/container/array.h>
    #include <tvm/ffi/error.h>
    #include <tvm/ffi/function.h>
    namespace ffi = tvm::ffi;
    ffi::Array<ffi::String> Split(ffi::String text, int64_t size) {
      if (size <= 0) TVM_FFI_THROW(ValueError) << "size must be positive, not " << size;
      ffi::Array<ffi::String> parts;
      for (size_t i = 0; i < text.size(); i += size) {
        parts.push_back(std::string(text.data() + i, std::min<size_t>(size, text.size() - i)));
      }
      return parts;
    }
    TVM_FFI_DLL_EXPORT_TYPED_FUNC(split, Split);
    """
    path = compile.cxx(source, *flags, "-fPIC", toolchain=toolchain)
    for functions in (session.load(path), compile.dlopen(path)):
        assert list(functions["split"]("abcdefg" * 3, 10)) == ["abcdefgabc", "defgabcdef", "g"]
        with pytest.raises(ValueError, match="size must be positive, not 0"):
            functions["split"]("x", 0)


@per_toolchain
def test_many_sections(session: tol.Session, compile: Compiler, toolchain: Toolchain) -> None:
    source = '#include "safe_call.h"\n' + "".join(
        f"int64_t data_{n} = {n}; int64_t f_{n}(void) {{ return data_{n}; }}\n" for n in range(1000)
    )
    source += f"EXPORT(total) {{ RETURN({' + '.join(f'f_{n}()' for n in range(1000))}); }}\n"
    flags = ("-O0", "-fPIC", "-ffunction-sections", "-fdata-sections")
    assert session.load(compile(source, *flags, toolchain=toolchain))["total"]() == 499500


def test_an_object_of_assembler(session: tol.Session, compile: Compiler) -> None:
    source = f"""
        .text
        .globl __tvm_ffi_answer
        .type __tvm_ffi_answer, @function
    __tvm_ffi_answer:
        {PROCESSOR.answer}
        .data
    answer: .quad 42
        .section .note.GNU-stack, "", @progbits
    """
    path = compile(source, "-c", language="assembler")
    assert session.load(path)["answer"]() == compile.dlopen(path).answer() == 42
