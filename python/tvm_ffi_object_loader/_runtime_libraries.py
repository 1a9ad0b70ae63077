# SPDX-License-Identifier: Apache-2.0
"""Which library has a symbol that is missing: those that compilers link without being asked.

What a compiler's own driver adds when it links (an OpenMP, a sanitizer's or a GPU's run time), an
object alone lacks. A symbol's name tells which library that is; whether the file that is found has
the symbol is read from the file, which is not run.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from ._library_search import defined_symbols, find_files
from .errors import UndefinedSymbolError

# How a library gets to the code that needs it.
_LINKED = "put it into link_order, or into the session's libraries: link_order=[{paths}]"
_WITH_OBJECTS = "load it together with the object: load([…, {paths}])"
# The C++ library with it: sanitizers look for what throws when they start, and Python has none.
_PRELOADED = (
    "it has to be in the process before Python starts: LD_PRELOAD='{path} libstdc++.so.6' python …"
)


class _Runtime(NamedTuple):
    """A library that objects need without naming it."""

    title: str
    symbols: str  # a regular expression that the whole name matches
    files: tuple[str, ...]  # patterns of file names, the best first; empty if no file is the answer
    where_from: str  # what to do where no file is found
    use: str = _LINKED
    is_guess: bool = False  # others have such names too: it counts if a file has the symbol


_MACHINE = os.uname().machine  # as clang names it
_NVIDIA = "pip install {package} brings it, and so does the CUDA toolkit"

# Of names that match two, the library that has more of the missing symbols is meant.
_RUNTIMES = (
    _Runtime(
        "CuTe DSL's runtime library",
        r"_cu(da)?[A-Z]\w*|CuteDSLRT_\w+|cuda_dialect_\w+",
        ("libcute_dsl_runtime.so",),
        "pip install nvidia-cutlass-dsl brings it",
    ),
    _Runtime(
        "the CUDA runtime",
        r"(__)?cuda(?!RegisterLinkedBinary_)[A-Z]\w*",  # that one `nvcc -dlink` makes
        ("libcudart.so", "libcudart.so.*"),
        _NVIDIA.format(package="nvidia-cuda-runtime"),
    ),
    _Runtime(
        "NVIDIA's driver",
        r"cu[A-Z]\w*",
        ("libcuda.so.1", "libcuda.so"),
        "the driver of the GPU brings it",
    ),
    *(
        _Runtime(title, rf"{prefix}[A-Z]\w*", (f"{file}.so", f"{file}.so.*"), where_from)
        for title, prefix, file, where_from in (
            ("cuBLAS", "cublas", "libcublas", _NVIDIA.format(package="nvidia-cublas")),
            ("cuBLASLt", "cublasLt", "libcublasLt", _NVIDIA.format(package="nvidia-cublas")),
            ("cuFFT", "cufft", "libcufft", _NVIDIA.format(package="nvidia-cufft")),
            ("cuRAND", "curand", "libcurand", _NVIDIA.format(package="nvidia-curand")),
            ("cuDNN", "cudnn", "libcudnn", "pip install nvidia-cudnn-cu12 brings it"),
            ("NCCL", "nccl", "libnccl", "pip install nvidia-nccl-cu12 brings it"),
            ("NVRTC", "nvrtc", "libnvrtc", _NVIDIA.format(package="nvidia-cuda-nvrtc")),
            ("HIP's runtime", "(?:__)?hip", "libamdhip64", "ROCm brings it"),
        )
    ),
    _Runtime(
        "GCC's OpenMP runtime",
        r"(GOMP|omp|GOACC|acc)_\w+",
        ("libgomp.so.1",),
        "Debian's libgomp1 and conda-forge's libgomp bring it",
    ),
    _Runtime(
        "LLVM's OpenMP runtime",
        r"(__kmpc|omp|kmp)_\w+",
        ("libomp.so", "libomp.so.5", "libiomp5.so"),
        "Debian's libomp-dev and conda-forge's llvm-openmp bring it",
    ),
    _Runtime(
        "GCC's runtime for coverage",
        r"__gcov_\w+",
        ("libgcov.a",),
        "gcc brings it: gcc -print-file-name=libgcov.a",
        _WITH_OBJECTS,
    ),
    _Runtime(
        "clang's runtime for profiles",
        r"__llvm_(profile|prf|orderfile|write|gcov)_?\w*|llvm_gcda_\w+|llvm_gcov_\w+",
        (f"libclang_rt.profile-{_MACHINE}.a", "libclang_rt.profile.a"),
        "Debian's libclang-rt-dev and conda-forge's compiler-rt bring it",
        _WITH_OBJECTS,
    ),
    *(
        _Runtime(
            f"{title}'s runtime",
            rf"__({prefix}|sanitizer|interceptor)_\w+",
            (f"lib{name}.so.*", f"libclang_rt.{name}-{_MACHINE}.so", f"libclang_rt.{name}.so"),
            f"the compiler's packages bring it; or compile without -fsanitize={flag}",
            _PRELOADED,
        )
        for title, prefix, name, flag in (
            ("AddressSanitizer", "asan", "asan", "address"),
            ("ThreadSanitizer", "tsan", "tsan", "thread"),
            ("LeakSanitizer", "lsan", "lsan", "leak"),
            ("HWAddressSanitizer", "hwasan", "hwasan", "hwaddress"),
        )
    ),
    _Runtime(
        "UndefinedBehaviorSanitizer's runtime",
        r"__ubsan_\w+",
        (
            "libubsan.so.*",
            f"libclang_rt.ubsan_standalone-{_MACHINE}.so",
            "libclang_rt.ubsan_standalone.so",
        ),
        "the compiler's packages bring it; or compile without -fsanitize=undefined, "
        "or with -fsanitize-trap=undefined",
    ),
    _Runtime(
        "MemorySanitizer's runtime",
        r"__msan_\w+",
        (),
        "it works in programs alone that are linked with it: compile without -fsanitize=memory",
    ),
    _Runtime(
        "gfortran's runtime library",
        r"_gfortran_\w+",
        ("libgfortran.so.5", "libgfortran.so"),
        "Debian's libgfortran5 and conda-forge's libgfortran5 bring it",
    ),
    _Runtime(
        "GCC's library for atomic operations",
        r"__atomic_\w+|atomic_flag_\w+",
        ("libatomic.so.1",),
        "Debian's libatomic1 and conda-forge's libatomic bring it",
    ),
    _Runtime(
        "GCC's library for 128-bit floating point",
        r"[a-z0-9]+q|quadmath_\w+|strtoflt128",
        ("libquadmath.so.0",),
        "",
        is_guess=True,
    ),
    _Runtime(
        "a library of linear algebra",
        r"(cblas|LAPACKE|openblas)_\w+|[sdczi][a-z0-9]{2,6}_",
        ("libopenblas.so.0", "libblas.so.3", "libcblas.so.3", "liblapack.so.3", "liblapacke.so.3"),
        "",
        is_guess=True,
    ),
    _Runtime(
        "libgcc's decimal floating point",
        r"__bid_\w+",
        ("libgcc.a",),
        "gcc brings it: gcc -print-libgcc-file-name",
        _WITH_OBJECTS,
    ),
    _Runtime(
        "LLVM's C++ library",
        r"_ZNK?St3__1\w+",
        ("libc++.so.1",),
        "Debian's libc++1 and conda-forge's libcxx bring it; or compile with -stdlib=libstdc++",
    ),
    _Runtime(
        "PyTorch",
        r"_Z(N|T[VIS]N?|NK)(2at|3c10|5torch)\w+",
        (
            "libtorch_cpu.so",
            "libc10.so",
            "libtorch_cuda.so",
            "libc10_cuda.so",
            "libtorch_python.so",
        ),
        "pip install torch brings it",
    ),
    _Runtime(
        "TVM's runtime library",
        r"TVM(Backend|Func|Device|Array|Mod)\w*",
        ("libtvm_runtime.so",),
        "pip install apache-tvm brings it, and import tvm first does as well",
    ),
    _Runtime(
        "Rust's standard library",
        r"rust_eh_personality|_R\w*(__rust|_RNv)\w*|__rust_\w+"
        r"|_ZN(3std|4core|5alloc)\w+17h[0-9a-f]{16}E",
        (),
        "rustc --crate-type=staticlib puts it into the archive that it makes: load that",
    ),
    _Runtime(
        "Zig's compiler-rt",
        r"__zig_\w+",
        (),
        "zig build-obj -fcompiler-rt puts it into the object",
    ),
)


class _Answer(NamedTuple):
    text: str
    paths: tuple[str, ...]


def undefined_symbol_error(message: str, symbols: tuple[str, ...]) -> UndefinedSymbolError:
    """Return the error, which names the libraries that are known to have the symbols.

    Parameters
    ----------
    message
        What the linker found.
    symbols
        The missing symbols.

    Returns
    -------
    UndefinedSymbolError
        The error to be raised.
    """
    answers = _answers(symbols)
    lines = [message, *(answer.text for answer in answers)]
    paths = tuple(path for answer in answers for path in answer.paths)
    return UndefinedSymbolError("\n".join(lines), symbols, paths)


def _answers(symbols: tuple[str, ...]) -> list[_Answer]:
    left = {symbol.partition("@")[0] for symbol in symbols}
    of_runtime = [
        (runtime, {name for name in left if re.fullmatch(runtime.symbols, name)})
        for runtime in _RUNTIMES
    ]
    answers = []
    # Python's sort keeps the order of those that have as many.
    for runtime, names in sorted(of_runtime, key=lambda pair: -len(pair[1])):
        wanted = names & left
        answer = _answer(runtime, wanted, len(symbols)) if wanted else None
        if answer is not None:
            answers.append(answer)
            left -= wanted
    return answers


def _answer(runtime: _Runtime, names: set[str], missing: int) -> _Answer | None:
    found = _files_with(runtime, names) if runtime.files else []
    if not found and runtime.is_guess:
        return None
    shown = min(names) if len(names) == 1 else f"{len(names)} of them"
    verb = "is" if len(names) == 1 else "are"
    text = f"{'It' if missing == 1 else shown} {verb} in {runtime.title}"
    if not found:
        where = ", which was not found here" if runtime.files else ""
        files = f", {runtime.files[0].removesuffix('.*')}" if runtime.files else ""
        return _Answer(f"{text}{files}{where}: {runtime.where_from}", ())
    paths = ", ".join(repr(path) for path in found)
    if runtime.use is _PRELOADED:
        return _Answer(f"{text}: {runtime.use.format(path=found[0])}", ())
    return _Answer(
        f"{text}, {' and '.join(found)}: {runtime.use.format(paths=paths)}", tuple(found)
    )


def _files_with(runtime: _Runtime, names: set[str]) -> list[str]:
    """Return as few files as have all of the symbols that the runtime's files have."""
    having = [(path, defined_symbols(path, names)) for path in find_files(runtime.files)]
    chosen: list[str] = []
    left = set(names)
    while having and left:
        path, defined = max(having, key=lambda pair: len(pair[1] & left))
        if not defined & left:
            break
        chosen.append(path)
        left -= defined
    return chosen
