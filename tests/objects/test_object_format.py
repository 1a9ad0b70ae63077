# SPDX-License-Identifier: Apache-2.0
"""Files and buffers that are no objects for this machine, and what the error says of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, Compiler
from conftest import ADD, RunScript
from processors import OTHER, PROCESSOR, X86_64, only_on
from refusal import Refusal

PLAIN = "int plain(int n) { return n + 1; }\n"

needs_clang = pytest.mark.skipif(CLANG is None, reason="no clang")


def test_missing_file(refusal: Refusal, tmp_path: Path) -> None:
    path = tmp_path / "absent.o"
    for load in refusal.entry_points():
        for given in (path, [str(path)]):
            with refusal.of(FileNotFoundError, path) as caught:
                load(given)
            assert isinstance(caught.value, OSError)
            assert caught.value.filename == str(path)


def test_directory(refusal: Refusal, tmp_path: Path) -> None:
    for load in refusal.entry_points():
        with refusal.of(IsADirectoryError, tmp_path) as caught:
            load(tmp_path)
        assert isinstance(caught.value, OSError)
        assert caught.value.filename == str(tmp_path)


def test_unreadable_file(refusal: Refusal, tmp_path: Path) -> None:
    path = tmp_path / "loop.o"
    path.symlink_to(path)  # ELOOP, for root as well
    with refusal.of(OSError, path) as caught:
        refusal.dylib.load(path)
    assert isinstance(caught.value, OSError)
    assert caught.value.filename == str(path)


def test_path_with_a_null_character(refusal: Refusal) -> None:
    with pytest.raises((ValueError, OSError)):
        refusal.dylib.load("a\0b.o")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"int main(void) { return 0; }\n" * 10, ""),
        (b"\0" * 4096, ""),
        (b"\x7fELF", ""),
        (b"BC\xc0\xde" + b"\0" * 200, "is LLVM bitcode"),
        (b"\xde\xc0\x17\x0b" + b"\0" * 200, "is LLVM bitcode"),
        (b"\xca\xfe\xba\xbe\0\0\0\2" + b"\0" * 200, "is a Mach-O object"),
        (b"__CLANG_OFFLOAD_BUNDLE__" + b"\0" * 200, "is a bundle of objects"),
        (b"\x50\xed\x55\xba" + b"\0" * 200, "is a CUDA fat binary"),
    ],
    ids=[
        "empty",
        "text",
        "zeros",
        "only the magic",
        "bitcode",
        "wrapped bitcode",
        "universal Mach-O",
        "offload bundle",
        "fat binary",
    ],
)
def test_not_an_object(refusal: Refusal, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "not_an_object.o"
    path.write_bytes(content)
    for load in refusal.entry_points():
        with refusal.of(tol.ObjectFormatError, path, said):
            load(path)
        with refusal.of(tol.ObjectFormatError, "<bytes>", said):
            load(content)


def test_the_bad_one_of_several_is_named(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.o"
    bad.write_text("text")
    good = compile(PLAIN, name="innocent")
    with refusal.of(tol.ObjectFormatError, bad) as caught:
        refusal.dylib.load([good, bad])
    assert "innocent" not in str(caught.value)


TRUNCATE = """
import sys
import tvm_ffi_object_loader as tol

content = open(sys.argv[1], "rb").read()
session = tol.Session()
good = session.load(sys.argv[2])
refused = 0
step = max(1, len(content) // 400)
lengths = {*range(0, 65), *range(0, len(content), step), *range(len(content) - 65, len(content))}
for length in sorted(lengths):
    try:
        session.load(content[:length], name="cut").close()
    except tol.ObjectFormatError as error:
        assert "<bytes>" in str(error), error
        refused += 1
    else:
        raise AssertionError(f"{length} of {len(content)} bytes were loaded")
    assert good["add"](1, 2) == 3
assert session.load(content)
print(refused == len(lengths))
"""


@pytest.mark.parametrize("source", [ADD, "rich.cc"], ids=["C", "C++"])
def test_truncated_at_many_lengths(
    compile: Compiler, add_object: Path, run_script: RunScript, source: str
) -> None:
    whole = compile(source, "-O2", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
    assert run_script(TRUNCATE, whole, add_object) == "True\n"


def test_truncated_file_is_named(refusal: Refusal, add_object: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.o"
    path.write_bytes(add_object.read_bytes()[:-100])
    with refusal.of(tol.ObjectFormatError, path, "truncated"):
        refusal.dylib.load(path)


def patched(path: Path, offset: int, value: bytes) -> bytes:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("machine", "name"),
    [(OTHER.machine, OTHER.name), (243, "RISC-V"), (3, "i386"), (0xFFF0, "ELF machine 65520")],
)
def test_another_architecture(
    refusal: Refusal, add_object: Path, tmp_path: Path, machine: int, name: str
) -> None:
    path = tmp_path / "foreign.o"
    path.write_bytes(patched(add_object, 18, machine.to_bytes(2, "little")))
    for load in refusal.entry_points():
        with refusal.of(tol.ObjectFormatError, path, f" for {name}", f"runs {PROCESSOR.name}"):
            load(path)


def test_a_shared_library_for_another_architecture(
    refusal: Refusal, compile: Compiler, add_object: Path
) -> None:
    path = compile.link(add_object)
    path.write_bytes(patched(path, 18, OTHER.header()))
    said = f"{path}: is a shared library for {OTHER.name}; this process runs {PROCESSOR.name}"
    for objects in (path, [add_object, path]):
        with refusal.of(tol.ObjectFormatError, said):
            refusal.dylib.load(objects)


@needs_clang
@pytest.mark.parametrize(
    ("target", "said"),
    [
        (OTHER.triple, f"is an object for {OTHER.name}; this process runs {PROCESSOR.name}"),
        ("riscv64-linux-gnu", "is an object for RISC-V"),
        ("powerpc64le-linux-gnu", "is an object for PowerPC64"),
        ("s390x-linux-gnu", "is a big-endian object"),
        ("aarch64_be-linux-gnu", "is a big-endian object"),
        ("i386-linux-gnu", "is a 32-bit object for i386"),
        ("x86_64-linux-gnux32", "is a 32-bit object for x86-64 (x32"),
        ("armv7-linux-gnueabihf", "is a 32-bit object for 32-bit Arm"),
        ("x86_64-apple-macos13", "is a Mach-O object (macOS)"),
        ("arm64-apple-macos13", "is a Mach-O object (macOS)"),
        ("x86_64-pc-windows-msvc", "is a COFF object (Windows)"),
        ("wasm32-unknown-unknown", "is a WebAssembly object"),
    ],
)
def test_an_object_for_another_system(
    refusal: Refusal, compile: Compiler, target: str, said: str
) -> None:
    assert CLANG is not None
    path = compile(PLAIN, f"--target={target}", "-O2", toolchain=CLANG, name="foreign")
    with refusal.of(tol.ObjectFormatError, f"{path}: {said}"):
        refusal.dylib.load(path)


@pytest.mark.parametrize(
    ("machine", "said"), [(190, "an NVIDIA GPU (a cubin)"), (224, "an AMD GPU")]
)
def test_an_object_for_a_gpu(refusal: Refusal, add_object: Path, machine: int, said: str) -> None:
    with refusal.of(tol.ObjectFormatError, f"<bytes>: is an object for {said}"):
        refusal.dylib.load(patched(add_object, 18, machine.to_bytes(2, "little")))


def test_core_file(refusal: Refusal, add_object: Path) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>: is a core file"):
        refusal.dylib.load(patched(add_object, 16, b"\x04\0"))


@only_on(X86_64, "compilers for others make no 32-bit objects")
def test_32_bit_object(refusal: Refusal, compile: Compiler) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>: is a 32-bit object for i386"):
        refusal.dylib.load(compile(PLAIN, "-m32").read_bytes())


def test_big_endian_object(refusal: Refusal, add_object: Path) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>: is a big-endian object"):
        refusal.dylib.load(patched(add_object, 5, b"\x02"))


@pytest.mark.parametrize("name", [b"\0first\0", b"\0\0econd\0"])
def test_undefined_symbols_without_a_name_of_their_own(
    refusal: Refusal, compile: Compiler, name: bytes
) -> None:
    source = "int first(void), second(void);\nint user(void) { return first() + second(); }\n"
    content = compile(source).read_bytes()
    assert content.count(b"\0second\0") == 1
    changed = content.replace(b"\0second\0", name.ljust(len(b"\0second\0"), b"\0"))
    with refusal.of(tol.ObjectFormatError, "<bytes>", "no name of its own"):
        refusal.dylib.load(changed)


def test_lto_only_object_of_gcc(refusal: Refusal, compile: Compiler) -> None:
    lto = compile(ADD, "-O2", "-fPIC", "-flto", "-fno-fat-lto-objects", name="slim")
    with refusal.of(tol.ObjectFormatError, lto, "-flto"):
        refusal.dylib.load(lto)


@needs_clang
def test_lto_only_object_of_clang(refusal: Refusal, compile: Compiler) -> None:
    assert CLANG is not None
    lto = compile(ADD, "-O2", "-fPIC", "-flto", toolchain=CLANG, name="bitcode")
    with refusal.of(tol.ObjectFormatError, lto, "-flto"):
        refusal.dylib.load(lto)


def test_fat_lto_object_loads(session: tol.Session, compile: Compiler) -> None:
    fat = compile(ADD, "-O2", "-fPIC", "-flto", "-ffat-lto-objects", name="fat")
    assert session.load(fat)["add"](1, 2) == 3


def test_shared_library_and_executable(
    refusal: Refusal, compile: Compiler, add_object: Path, tmp_path: Path
) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>", "shared library", "path"):
        refusal.dylib.load(compile.link(add_object).read_bytes())
    main = compile("int main(void) { return 0; }\n")
    fixed = tmp_path / "fixed"
    subprocess.run(["gcc", main, "-no-pie", "-o", fixed], check=True)
    with refusal.of(tol.ObjectFormatError, f"{fixed}: is an executable"):
        refusal.dylib.load(fixed)


@pytest.mark.parametrize("name", ["$__GOT", "$__STUBS", "$ifunc", "$eh_frame", "$tls", "common"])
def test_section_with_a_name_that_a_linker_might_use(
    session: tol.Session, compile: Compiler, name: str
) -> None:
    source = f"""
    #include "safe_call.h"
    __attribute__((section("{name}"))) long variable = 5;
    long other = 6;
    EXPORT(sum) {{ RETURN(variable + other); }}
    """
    assert session.load(compile(source))["sum"]() == 11


@pytest.mark.parametrize(
    ("source", "symbol"),
    [
        ("__tvm_ffi__library_ctx = 8", "__tvm_ffi__library_ctx"),
        (".section .rodata\n__tvm_ffi__library_ctx: .quad 0", "__tvm_ffi__library_ctx"),
        (".section .rodata\n__tvm_ffi__library_bin: .quad 1 << 47, 5", "__tvm_ffi__library_bin"),
        ("__tvm_ffi__library_bin = 8", "__tvm_ffi__library_bin"),
    ],
    ids=["no variable", "constant", "binary of no end", "no binary"],
)
def test_context_symbols_that_are_none(
    refusal: Refusal, compile: Compiler, source: str, symbol: str
) -> None:
    path = compile(f".globl {symbol}\n{source}\n", language="assembler")
    with refusal.of(tol.LinkError, symbol):
        refusal.dylib.load(path)
