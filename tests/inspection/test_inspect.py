# SPDX-License-Identifier: Apache-2.0
"""`inspect` tells what is in files, where their symbols are found, and whether they would load."""

from __future__ import annotations

import collections
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, Compiler
from conftest import RunScript, Trace
from processors import OTHER, PROCESSOR
from tvm_ffi_object_loader import _gpu
from tvm_ffi_object_loader.inspection import FileReport, ReferenceReport

RICH = """
#include "safe_call.h"
#include <stdlib.h>
extern int given, missing, nowhere_weak __attribute__((weak));
extern char __start_marks[], __stop_marks[];
__attribute__((section("marks"), used)) static int mark = 1;
__thread int of_thread[3] = {1, 2, 3};
static int zeros[1000];
static void ended(void) {}
__attribute__((constructor)) static void begin(void) { zeros[0] = 1; }
__attribute__((constructor)) static void begin_too(void) { zeros[1] = 1; }
__attribute__((destructor)) static void end(void) { zeros[0] = 2; }
__attribute__((visibility("hidden"))) int __tvm_ffi_hidden(void) { return 0; }
EXPORT(add) {
  atexit(ended);
  int64_t more = &nowhere_weak ? nowhere_weak : 0;
  RETURN(given + missing + zeros[0] + of_thread[1] + (__stop_marks - __start_marks) + more);
}
"""
GIVEN = "int given = 5;\n"


def where(file: FileReport) -> dict[str, str]:
    return {reference.symbol: reference.where for reference in file.references}


def only(found: tol.Inspection) -> FileReport:
    (file,) = found.files
    return file


def readelf(*arguments: object) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    command = ["readelf", "-W", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_an_object(compile: Compiler) -> None:
    path = compile(RICH, "-O2", "-fPIC", "-g", "-ffunction-sections", name="rich")
    found = tol.inspect([path, compile(GIVEN, name="given")])
    assert found.loads is False
    assert found.why_not is not None
    assert re.search(r"undefined symbol:\n  missing, used by .*rich", found.why_not)
    file = found.files[0]
    assert file.name == str(path)
    assert (file.kind, file.processor, file.problem) == ("object", PROCESSOR.name, None)
    assert [compiler.startswith("GCC: (") for compiler in file.compilers] == [True]
    assert [function.name for function in file.functions] == ["add"]
    assert (file.initializers, file.finalizers, file.thread_locals) == (2, 1, 12)
    assert file.debug is not None
    assert re.fullmatch(r"DWARF [45]", file.debug)
    assert file.sizes.debug > 100
    assert file.sizes.zeros >= 4000
    assert file.sizes.file == path.stat().st_size
    places = where(file)
    assert places["given"] == "objects"
    assert places["missing"] == "nowhere"
    assert places["nowhere_weak"] == "null"
    assert places["atexit"] == "package"
    assert places["__start_marks"] == "linker"
    assert places.get("_GLOBAL_OFFSET_TABLE_", "linker") == "linker"


def test_what_nothing_refers_to_is_not_searched(compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    extern int never_there;
    __attribute__((used)) static int unused(void) { return never_there; }
    EXPORT(add) { RETURN(INT(0) + INT(1)); }
    """
    found = tol.inspect(compile(source, "-O2", "-fPIC", "-ffunction-sections"))
    assert found.loads is True
    assert where(only(found))["never_there"] == "unused"


def test_where_the_process_finds_symbols(compile: Compiler) -> None:
    source = '#include <string>\nstd::string* make() { return new std::string("text"); }\n'
    found = tol.inspect(
        compile.cxx(
            source + 'extern "C" double cos(double); double c(double x) { return cos(x); }\n',
            "-fPIC",
        )
    )
    assert found.loads is True
    libraries = {
        reference.demangled: Path(reference.library or "").name
        for reference in only(found).references
        if reference.where == "process"
    }
    assert libraries["operator new(unsigned long)"].startswith("libstdc++.so")
    # A program that takes its address without -fPIC has a place of its own for it.
    assert libraries["cos"].startswith(("libm.so", "python"))


def test_sections_symbols_and_relocations_are_those_of_readelf(compile: Compiler) -> None:
    path = compile(RICH, "-O2", "-fPIC", "-g", "-ffunction-sections", name="rich")
    file = only(tol.inspect(path))
    kinds: collections.Counter[str] = collections.Counter()
    loaded = False
    for line in readelf("-r", path).splitlines():
        if line.startswith("Relocation section"):
            loaded = ".debug" not in line
        found = re.search(rf"\b({PROCESSOR.relocation_prefix}\w+)", line)
        if found and loaded:
            kinds[found[1]] += 1
    assert file.relocations == dict(kinds)
    expected = set()
    for line in readelf("-s", path).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0][:-1].isdigit() and fields[3] not in ("SECTION", "FILE"):
            expected.add((fields[7], int(fields[1], 16), int(fields[2], 0), fields[4].lower()))
    assert {(s.name, s.offset, s.size, s.binding) for s in file.symbols} == expected
    sizes = {"code": 0, "constants": 0, "data": 0, "zeros": 0}
    for line in readelf("-S", path).splitlines():
        section = re.match(
            r"\s*\[ *\d+\] \S+ +(\w+) +\w+ \w+ (\w+) \w+ +(\w*) +\d+ +\d+ +\d+$", line
        )
        if section and "A" in section[3]:
            kind = "zeros" if section[1] == "NOBITS" else "code" if "X" in section[3] else "data"
            if kind == "data" and "W" not in section[3]:
                kind = "constants"
            sizes[kind] += int(section[2], 16)
    assert {name: getattr(file.sizes, name) for name in sizes} == sizes


def test_nothing_is_run_unless_it_is_asked_for(traced: Path, trace: Trace) -> None:
    assert tol.inspect(traced).loads is True
    assert trace.take() == []
    tol.inspect(traced, run=True)
    assert trace.take() == [1, -1]


TYPED = """
#include <tvm/ffi/function.h>
int64_t Scale(int64_t a, double b) { return static_cast<int64_t>(a * b); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, Scale);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(scale, "Scale a number.");
"""
METADATA = "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1"


def test_signature_and_documentation_that_are_code(compile: Compiler) -> None:
    path = compile.cxx(TYPED, "-O1", "-fPIC", METADATA)
    (function,) = only(tol.inspect(path)).functions
    assert (function.signature, function.doc, function.has_metadata) == (None, None, True)
    (function,) = only(tol.inspect(path, run=True)).functions
    assert function.signature == "(arg0: int, arg1: float, /) -> int"
    assert function.doc == "Scale a number."


def test_a_signature_that_is_data(compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    EXPORT(add_one) {
      TVMFFIErrorSetRaisedFromCStr("TypeError", "Mismatched type on argument #0 when calling: "
          "`add_one(a: Tensor([n0], float32), b: Tensor([n0], float32))`, expected Tensor");
      return -1;
    }
    EXPORT(bare) {
      TVMFFIErrorSetRaisedFromCStr("TypeError", "bare(1, 2) is no signature, nor is bare(a, b)");
      return -1;
    }
    """
    first, second = only(tol.inspect(compile(source))).functions
    assert first.signature == "(a: Tensor([n0], float32), b: Tensor([n0], float32))"
    assert second.signature is None


@pytest.mark.parametrize("toolchain", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [("-g",), ("-g", "-gz"), ("-gdwarf-4",)], ids=" ".join)
def test_the_compiler_is_told_by_debug_information(
    compile: Compiler, tmp_path: Path, toolchain: str, flags: tuple[str, ...]
) -> None:
    if toolchain == "clang" and CLANG is None:
        pytest.skip("clang is not installed")
    if shutil.which("objcopy") is None:
        pytest.skip("objcopy is not installed")
    chosen = {} if toolchain == "gcc" or CLANG is None else {"toolchain": CLANG}
    path = compile("int three(void) { return 3; }\n", "-O1", "-fPIC", *flags, **chosen)  # type: ignore[arg-type]
    bare = tmp_path / "bare.o"
    subprocess.run(["objcopy", "-R", ".comment", path, bare], check=True)
    (compiler,) = only(tol.inspect(bare)).compilers
    assert re.match(r"GNU C\d\d ", compiler) if toolchain == "gcc" else "clang version" in compiler


def test_an_archive(compile: Compiler, add_object: Path, tmp_path: Path) -> None:
    path = tmp_path / "libadd.a"
    source = RICH.replace("EXPORT(add)", "EXPORT(more)")
    part = compile(source, name="part-with-a-name-that-is-longer-than-fifteen-characters")
    subprocess.run(["ar", "rcs", path, add_object, part], check=True)
    archive = only(tol.inspect(path))
    assert archive.kind == "archive"
    names = [f"{path}({add_object.name})", f"{path}({part.name})"]
    assert [member.name for member in archive.members] == names
    assert [member.sizes.file for member in archive.members] == [
        add_object.stat().st_size,
        part.stat().st_size,
    ]
    assert where(archive.members[1])["missing"] == "nowhere"
    thin = tmp_path / "thin.a"
    subprocess.run(["ar", "rcsT", thin, add_object, compile(GIVEN, name="given")], check=True)
    found = tol.inspect(thin)
    assert (only(found).kind, found.loads) == ("thin archive", True)
    assert [function.name for function in only(found).members[0].functions] == ["add"]
    names = [symbol.name for symbol in only(found).members[1].symbols]
    # The others mark code and data among each other.
    assert [name for name in names if name not in ("$d", "$x")] == ["given"]


def test_a_tar(add_object: Path, tmp_path: Path) -> None:
    path = tmp_path / "export.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(add_object, "lib0.o")
    found = tol.inspect(path)
    assert found.loads is True
    assert [member.name for member in only(found).members] == [f"{path}(lib0.o)"]
    path.write_bytes(b"no tar")
    found = tol.inspect(path)
    assert found.loads is False
    assert only(found).problem is not None


def test_a_shared_library_is_not_opened(compile: Compiler, traced: Path, trace: Trace) -> None:
    library = compile.link(traced)
    found = tol.inspect(library)
    assert (only(found).kind, found.loads) == ("shared library", None)
    assert trace.take() == []


def test_symbols_of_a_library_that_is_given_along(compile: Compiler) -> None:
    source = '#include "safe_call.h"\nextern int given;\nEXPORT(get) { RETURN(given); }\n'
    user, library = compile(source), compile.link(compile(GIVEN))
    assert tol.inspect(user).loads is False
    found = tol.inspect([user, library])
    assert found.loads is True
    (reference,) = (r for r in found.files[0].references if r.symbol == "given")
    assert reference == ReferenceReport("given", "library", str(library), False)


def header(machine: int, kind: int = 1, flags: int = 0, version: int = 0) -> bytes:
    ident = b"\x7fELF\x02\x01\x01\0" + bytes([version]) + bytes(7)
    fields = (kind, machine, 1, 0, 0, 0, flags, 64, 0, 0, 64, 0, 0)
    return ident + struct.pack("<HHIQQQIHHHHHH", *fields)


@pytest.mark.parametrize(
    ("content", "kind", "processor", "why"),
    [
        (header(OTHER.machine), "object", OTHER.name, f"is an object for {OTHER.name}"),
        (header(PROCESSOR.machine, 2), "executable", PROCESSOR.name, "is an executable"),
        (header(190, 2, 90), "cubin", "an NVIDIA GPU (a cubin)", "cubin"),
        (b"BC\xc0\xde" + bytes(60), "other", None, "is LLVM bitcode"),
        (b"some text, longer than a header of any kind is, to be sure of it", "other", None, "ELF"),
        (b"", "other", None, "is empty"),
        (b"\x7fELF", "other", None, "is truncated"),
    ],
)
def test_other_files(content: bytes, kind: str, processor: str | None, why: str) -> None:
    found = tol.inspect(content)
    assert found.loads is False
    assert (only(found).kind, only(found).processor) == (kind, processor)
    assert found.why_not is not None
    assert why in found.why_not
    assert found.why_not.startswith("<bytes>: ")


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        tol.inspect(tmp_path / "absent.o")
    with pytest.raises(IsADirectoryError):
        tol.inspect(tmp_path)
    with pytest.raises(TypeError, match="objects must be"):
        tol.inspect(5)  # type: ignore[arg-type]


def bytes_in_constants(compile: Compiler, symbol: str, content: bytes) -> Path:
    values = ",".join(map(str, content))
    return compile(f"const unsigned char {symbol}[] = {{{values}}};\n", name="constants")


def fat(*entries: tuple[int, int, int, bytes]) -> bytes:
    body = b"".join(
        struct.pack("<HHIQIIIIIIQ", kind, 0x101, 64, len(content), 0, 0, 0, number, 0, 0, flags)
        + bytes(16)
        + content
        for kind, number, flags, content in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_gpu_code(compile: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu, "capabilities", lambda: ((9, 0),))
    ptx = b"\n.version 8.0\n.target sm_80\n.address_size 64\n"
    content = b"".join(
        (
            fat(
                (2, 90, 0x100011, header(190, 2, 90, 7)),
                (2, 75, 0x8011, b"compressed"),
                (1, 80, 0x11, ptx),
                (1, 100, 0x208011, b"compressed"),
            ),
            bytes(8),
            header(190, 2, 0x800 | 90, 7),
            bytes(8),
            header(190, 2, 100 << 8 | 8, 8),
            bytes(8),
            b"// PTX\n.target sm_70, texmode\n",
        )
    )
    found = tol.inspect(bytes_in_constants(compile, "image", content))
    code = [(code.kind, code.architecture, code.runs_here) for code in only(found).gpu_code]
    assert code == [
        ("cubin", "sm_90a", True),
        ("cubin", "sm_75", False),
        ("PTX", "sm_80", True),
        ("PTX", "sm_100f", False),
        ("cubin", "sm_100a", False),
        ("PTX", "sm_70", True),
    ]
    assert {code.section for code in only(found).gpu_code} == {".rodata"}
    assert found.gpus == ("9.0",)


def test_gpu_code_that_nvcc_compiles(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    source, path = tmp_path / "kernel.cu", tmp_path / "kernel.o"
    source.write_text("__global__ void k(int* p) { *p = 1; }\nvoid f(int* p) { k<<<1, 1>>>(p); }\n")
    wanted = ["sm_80", "sm_90a", "compute_90"]
    codes = [f"-gencode=arch={code.replace('sm_', 'compute_')},code={code}" for code in wanted]
    command = [nvcc, "-c", "-Xcompiler", "-fPIC", *codes, str(source), "-o", str(path)]
    subprocess.run(command, check=True, timeout=300)
    found = {(code.kind, code.architecture) for code in only(tol.inspect(path)).gpu_code}
    assert found == {("cubin", "sm_80"), ("cubin", "sm_90a"), ("PTX", "sm_90")}


@pytest.mark.parametrize(
    ("kind", "architecture", "runs"),
    [
        ("cubin", "sm_80", {(8, 0), (8, 6)}),
        ("cubin", "sm_86", {(8, 6)}),
        ("PTX", "sm_80", {(8, 0), (8, 6), (9, 0), (10, 0), (10, 3), (12, 0)}),
        ("cubin", "sm_90a", {(9, 0)}),
        ("PTX", "sm_90a", {(9, 0)}),
        ("cubin", "sm_100f", {(10, 0), (10, 3)}),
        ("PTX", "unheard-of", set()),
    ],
)
def test_which_gpus_run_it(kind: str, architecture: str, runs: set[tuple[int, int]]) -> None:
    gpus = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (10, 3), (12, 0)]
    assert {gpu for gpu in gpus if _gpu.runs_on(kind, architecture, gpu)} == runs


def library_binary(*modules: tuple[bytes, bytes]) -> bytes:
    def text(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    count = len(modules) + 1
    body = struct.pack("<Q", count + 1) + struct.pack(f"<{count + 1}Q", 0, *[count - 1] * count)
    body += struct.pack("<Q", count - 1) + struct.pack(f"<{count - 1}Q", *range(1, count))
    body += text(b"_lib") + b"".join(text(kind) + text(content) for kind, content in modules)
    return struct.pack("<Q", len(body)) + body


def test_embedded_modules(compile: Compiler) -> None:
    binary = library_binary((b"cuda", bytes(1000)), (b"relax.Executable", b"abc"))
    file = only(tol.inspect(bytes_in_constants(compile, "__tvm_ffi__library_bin", binary)))
    assert [(m.kind, m.size) for m in file.modules] == [("cuda", 1000), ("relax.Executable", 3)]
    damaged = bytes_in_constants(compile, "__tvm_ffi__library_bin", binary[:-500])
    file = only(tol.inspect(damaged))
    assert file.problem is not None
    assert "reaches past the end" in file.problem


def test_as_dict_is_json(compile: Compiler) -> None:
    found = tol.inspect(compile(RICH, name="rich"))
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    assert found.as_dict()["files"][0]["functions"][0]["name"] == "add"
    with pytest.raises(AttributeError):
        found.loads = True  # type: ignore[misc]


SHAPES: dict[str, Callable[[Compiler], Path]] = {
    "plain": lambda compile: compile('#include "safe_call.h"\nEXPORT(a) { RETURN(1); }\n'),
    "undefined": lambda compile: compile(RICH, name="rich"),
    "C++": lambda compile: compile.cxx(TYPED, "-O1", "-fPIC"),
    "not -fPIC": lambda compile: compile(GIVEN + "int* where(void) { return &given; }\n", "-O0"),
    "thread-local nowhere": lambda compile: compile(
        "extern __thread int t; int get(void) { return t; }\n"
    ),
    "too large": lambda compile: compile(
        '__attribute__((used, section(".bss.a"))) static char a[1500000000];\n'
        '__attribute__((used, section(".bss.b"))) static char b[1500000000];\n'
        "char* get(int i) { return i ? a : b; }\n"
    ),
    "a constructor that throws": lambda compile: compile.cxx(
        "struct T { T() { throw 1; } } t;\n", "-fPIC"
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_verdict_is_what_a_load_says(
    compile: Compiler, session: tol.Session, shape: str
) -> None:
    path = SHAPES[shape](compile)
    found = tol.inspect(path)
    why_not = None
    try:
        session.load(path, name="inspection")
    except tol.ObjectLoaderError as error:
        why_not = str(error)
    if shape == "a constructor that throws":  # which is known only when it is run
        assert why_not is not None
        why_not = None
    assert (found.loads, found.why_not) == (why_not is None, why_not)


def test_two_that_define_the_same(add_object: Path) -> None:
    found = tol.inspect([add_object, add_object])
    assert found.loads is False
    assert found.why_not is not None
    assert "duplicate symbol" in found.why_not


def test_what_cannot_be_linked_at_all(compile: Compiler) -> None:
    path = compile(RICH, name="rich")
    found = tol.inspect([path, path])
    assert set(where(found.files[0]).values()) == {"unknown", "linker"}


def test_more_sections_than_a_symbol_can_name(compile: Compiler) -> None:
    sections = "\n".join(f'.section .many.{i},"a"\n.byte 1' for i in range(66000))
    path = compile(
        f'{sections}\n.section .last,"a"\n.globl last\nlast: .byte 2\n'
        '.section .note.GNU-stack,"",@progbits\n',
        language="assembler",
    )
    found = tol.inspect(path)
    assert found.loads is True
    assert [(s.name, s.section) for s in only(found).symbols] == [("last", ".last")]


def test_a_pipe_is_not_waited_for(run_script: RunScript, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.o")
    script = "import sys, tvm_ffi_object_loader as tol\nprint(tol.inspect(sys.argv[1]).why_not)"
    assert "not a regular file" in run_script(script, tmp_path / "pipe.o", timeout=60)


FUZZ = """
import random, sys
import tvm_ffi_object_loader as tol
for path in sys.argv[2:]:
    original = open(path, "rb").read()
    generator = random.Random(int(sys.argv[1]))
    for round in range(150):
        content = bytearray(original)
        for _ in range(generator.choice([1, 1, 2, 8, 64])):
            # Headers and tables are small: of the whole, few bytes matter.
            place = generator.randrange(len(content))
            if generator.random() < 0.5:
                place = generator.choice([generator.randrange(64), len(content) - 1 -
                                          generator.randrange(min(len(content), 2000))])
            content[place] = generator.choice([0, 1, 255, generator.randrange(256)])
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)):]
        found = tol.inspect(bytes(content))
        assert found.loads in (True, False, None)
        found.as_dict(), [symbol.demangled for symbol in found.files[0].symbols]
print("done")
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_are_told_of(
    compile: Compiler, add_object: Path, run_script: RunScript, tmp_path: Path, seed: int
) -> None:
    archive = tmp_path / "libadd.a"
    subprocess.run(["ar", "rcs", archive, add_object], check=True)
    objects = [
        compile(RICH, "-O1", "-fPIC", "-g", name="rich"),
        compile(RICH, "-O1", "-fPIC", "-g", "-gz", name="rich"),
        bytes_in_constants(compile, "__tvm_ffi__library_bin", library_binary((b"cuda", b"abc"))),
        archive,
        compile.link(add_object),
    ]
    assert run_script(FUZZ, seed, *objects) == "done\n"


def test_every_truncation_is_told_of(add_object: Path) -> None:
    content = add_object.read_bytes()
    generator = random.Random(1)
    for size in sorted(generator.sample(range(len(content)), 200)):
        found = tol.inspect(content[:size])
        assert found.loads is False, size
        assert found.why_not, size


def test_no_gpu_and_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu, "_ASK", "import ctypes; ctypes.CDLL('lib-of-nobody.so')")
    assert _gpu.capabilities.__wrapped__() == ()
    monkeypatch.setattr(_gpu, "_ASK", "print('9.0'); print('12.1')")
    assert _gpu.capabilities.__wrapped__() == ((9, 0), (12, 1))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert _gpu.capabilities.__wrapped__() == ()
