# SPDX-License-Identifier: Apache-2.0
"""Make the objects and archives to mutate: ``seeds.py FOLDER``.

Prints their paths, after that of the object to load as it is: what load_mutants.py takes.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain
from elf_image import (
    SECTION_HEADER_SIZE,
    SHN_XINDEX,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    SYMBOL_SIZE,
    read_sections,
    runs_code,
)
from mutate_archive import ARCHIVE, header, is_archive, member
from processors import PROCESSOR

FUZZ = Path(__file__).parent
_CREL = ("-Wa,--crel,--allow-experimental-crel",)
_DEBUG = ("-O0", "-g", "-gz", "-fPIC", "-ffunction-sections")
# What gives sections that are linked to others (SHF_LINK_ORDER), and notes with properties.
_INSTRUMENTED = ("-O1", "-fPIC", "-fpatchable-function-entry=4,2", PROCESSOR.branch_protection)


def _makes_compact_relocations(toolchain: Toolchain) -> bool:
    command = [toolchain.cc, *_CREL, "-c", "-x", "c", "/dev/null", "-o", "/dev/null"]
    return subprocess.run(command, capture_output=True).returncode == 0


def with_extended_indices(content: bytes) -> bytes:
    """Let an object have all numbers of sections where those with too many sections have them."""
    sections = read_sections(content)
    (symbols,) = (section for section in sections if section.type == SHT_SYMTAB)
    (names,) = struct.unpack_from("<H", content, 62)
    out = bytearray(content)
    indices = bytearray()
    for at in range(symbols.offset + 6, symbols.offset + symbols.size, SYMBOL_SIZE):
        (index,) = struct.unpack_from("<H", content, at)
        is_number = 0 < index < 0xFF00
        indices += struct.pack("<I", index if is_number else 0)
        if is_number:
            struct.pack_into("<H", out, at, SHN_XINDEX)
    out += bytes(-len(out) % 8)
    place = len(out)
    out += indices + bytes(-len(indices) % 8)
    table, first = len(out), sections[0].header
    out += content[first : first + SECTION_HEADER_SIZE * len(sections)]
    link = sections.index(symbols)
    out += struct.pack("<IIQQQQIIQQ", 0, SHT_SYMTAB_SHNDX, 0, 0, place, len(indices), link, 0, 4, 4)
    struct.pack_into("<Q", out, 40, table)
    struct.pack_into("<HH", out, 60, 0, SHN_XINDEX)
    struct.pack_into("<QI", out, table + 32, len(sections) + 1, names)
    return bytes(out)


def _bsd_archive(members: list[tuple[str, bytes]]) -> bytes:
    """Return an archive as BSD's ar makes it: names within the members, and an unsorted table."""
    names = [name.encode().ljust(20, b"\0") for name, _ in members]
    symbols = b"throw_and_catch\0helper0\0"
    table_size = 4 + 16 + 4 + len(symbols)
    at = len(ARCHIVE) + len(header("", 0)) + 12 + table_size
    entries = struct.pack("<IIIII", 16, 0, at, 16, at)
    table = b"__.SYMDEF".ljust(12, b"\0") + entries + struct.pack("<I", len(symbols)) + symbols
    archive = ARCHIVE + member("#1/12", table)
    for name, (_, content) in zip(names, members, strict=True):
        archive += member(f"#1/{len(name)}", name + content)
    return archive


def _archives(objects: list[Path], helpers: list[Path], folder: Path) -> list[Path]:
    """Make archives of all styles: GNU's, nested, BSD's and thin ones."""
    made = []
    for number, path in enumerate(objects[:2]):
        archive = folder / f"archive-{number}.a"
        long_names = [shutil.copy(path, folder / f"a-long-name-{path.name}") for path in helpers]
        subprocess.run(["ar", "rc", archive, *long_names[: number + 1], path], check=True)
        made.append(archive)
    nested = folder / "nested.a"
    subprocess.run(["ar", "rc", nested, *helpers[:1], made[0], objects[1]], check=True)
    bsd = folder / "bsd.a"
    bsd.write_bytes(_bsd_archive([(path.name, path.read_bytes()) for path in [*helpers, *objects]]))
    # Their mutants are written beside the files that they name.
    thin = folder / "thin"
    (thin / "below").mkdir(parents=True)
    shutil.copy(objects[0], thin / "first.o")
    shutil.copy(helpers[0], thin / "below" / "second-with-a-long-name.o")
    shutil.copy(made[0], thin / "inner.a")
    for name, files in {
        "thin.a": ["first.o", "below/second-with-a-long-name.o"],
        "thin-nested.a": ["below/second-with-a-long-name.o", "inner.a"],
    }.items():
        subprocess.run(["ar", "rcT", name, *files], cwd=thin, check=True)
    return [*made, nested, bsd, thin / "thin.a", thin / "thin-nested.a"]


def build(compile: Compiler, folder: Path) -> list[Path]:
    """Make the seeds; the first path is that of the object to load as it is."""
    source, c_source = ((FUZZ / name).read_text() for name in ("corpus.cc", "corpus.c"))

    def cxx(*flags: str, toolchain: Toolchain = GCC) -> Path:
        return compile.cxx(source, *flags, toolchain=toolchain, name="corpus")

    def c(*flags: str, toolchain: Toolchain = GCC) -> Path:
        return compile(c_source, *flags, toolchain=toolchain, name="corpus_c")

    optimized = [cxx("-O2", "-fPIC", toolchain=toolchain) for toolchain in TOOLCHAINS]
    objects = [*optimized, *(cxx(*_DEBUG, toolchain=toolchain) for toolchain in TOOLCHAINS)]
    objects += [
        cxx("-O1", "-fPIC", "-mcmodel=large"),
        cxx("-O1", "-fno-pic"),
        cxx(*_INSTRUMENTED, "-ffunction-sections"),
    ]
    small = [c("-O1", "-fPIC", "-fcommon"), c("-O1", "-fno-pic", "-fcommon")]
    if CLANG is not None:
        small.append(c(*_INSTRUMENTED, toolchain=CLANG))
        if _makes_compact_relocations(CLANG):
            objects.append(cxx("-O2", "-fPIC", *_CREL, toolchain=CLANG))
            small.append(c("-O1", "-fPIC", "-fcommon", *_CREL, toolchain=CLANG))
    both = folder / "both.o"
    subprocess.run(["ld", "-r", optimized[0], small[0], "-o", both], check=True)
    objects.append(both)
    for path in (both, small[0]):
        extended = folder / f"extended-{path.name}"
        extended.write_bytes(with_extended_indices(path.read_bytes()))
        small.append(extended)
    helpers = [compile(f"int helper{n}(void) {{ return {n}; }}\n") for n in range(2)]
    made = [*objects, *small, *_archives([optimized[0], small[0]], helpers, folder)]
    for path in made:
        assert is_archive(path.read_bytes()) or not runs_code(path.read_bytes()), path
    return [cxx("-O1", "-fPIC"), *made]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(*build(Compiler(target), target), sep="\n")
