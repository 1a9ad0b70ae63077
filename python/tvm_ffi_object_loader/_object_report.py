# SPDX-License-Identifier: Apache-2.0
"""What one ELF file is and has, read from its tables."""

from __future__ import annotations

import collections
import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import _gpu, _native, _signatures
from ._contents import Content
from ._elf import (
    SHF_ALLOC,
    SHF_COMPRESSED,
    SHF_EXECINSTR,
    SHF_TLS,
    SHF_WRITE,
    SHN_ABS,
    SHN_COMMON,
    SHN_UNDEF,
    SHT_FINI_ARRAY,
    SHT_INIT_ARRAY,
    SHT_NOBITS,
    SHT_PREINIT_ARRAY,
    STB_LOCAL,
    ElfFile,
    ElfSymbol,
    MalformedError,
    Section,
)
from ._producer import producer
from ._reports import (
    FileReport,
    FunctionReport,
    GpuCodeReport,
    ModuleReport,
    ReferenceReport,
    SizesReport,
    SymbolReport,
)

_FUNCTION = "__tvm_ffi_"
_OF_TVM_FFI = "__tvm_ffi__"
_METADATA, _DOC = "__tvm_ffi__metadata_", "__tvm_ffi__doc_"
_LIBRARY_BINARY = "__tvm_ffi__library_bin"
_KINDS = {0: "other", 1: "data", 2: "function", 6: "thread-local", 10: "indirect function"}
_BINDINGS = {0: "local", 1: "global", 2: "weak", 10: "unique"}
_HIDDEN, _INTERNAL = 2, 1
_SECTION_SYMBOL, _FILE_SYMBOL = 3, 4


@dataclass
class Exports:
    """What functions said of themselves when they were run, by name."""

    metadata: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    docs: dict[str, str | None] = field(default_factory=dict)


def cubin_report(content: Content) -> FileReport:
    """Return what is known of a file that is GPU code itself."""
    architecture = _gpu.cubin_architecture(content.read(0, min(64, content.size)))
    if architecture is None:
        raise MalformedError("is a cubin of a form that is not known")
    code = _gpu_code("cubin", architecture, "")
    processor = _native.machine_name(190, False)
    sizes = SizesReport(content.size, 0, 0, 0, 0, 0)
    return FileReport(content.name, "cubin", sizes, processor=processor, gpu_code=(code,))


def _gpu_code(kind: str, architecture: str, section: str) -> GpuCodeReport:
    gpus = _gpu.capabilities()
    runs = any(_gpu.runs_on(kind, architecture, gpu) for gpu in gpus) if gpus else None
    return GpuCodeReport(kind, architecture, section, runs)


def report_elf(content: Content, kind: str, exports: Exports) -> FileReport:
    """Return what an ELF file has.

    Raises
    ------
    MalformedError
        If not even its tables can be read.
    """
    elf = ElfFile(content)
    sections = elf.sections
    symbols = [s for s in elf.symbols[1:] if s.type not in (_SECTION_SYMBOL, _FILE_SYMBOL)]
    gpu_code, texts = _scan(elf)
    width = 8 if elf.is_64 else 4

    def entries(*wanted: int, legacy: str) -> int:
        size = sum(
            section.size
            for section in sections
            if section.type in wanted or section.name.split(".")[1:2] == [legacy]
        )
        return size // width

    return FileReport(
        name=content.name,
        kind=kind,
        processor=_native.machine_name(elf.machine, not elf.is_64),
        compilers=_compilers(elf),
        functions=tuple(_functions(symbols, texts, exports)),
        references=tuple(
            ReferenceReport(name, "unknown", None, is_weak)
            for name, is_weak in _undefined(symbols).items()
        ),
        symbols=tuple(_symbol(elf, symbol) for symbol in symbols),
        initializers=entries(SHT_INIT_ARRAY, SHT_PREINIT_ARRAY, legacy="ctors"),
        finalizers=entries(SHT_FINI_ARRAY, legacy="dtors"),
        thread_locals=sum(s.size for s in sections if s.flags & SHF_TLS),
        sizes=_sizes(content, sections),
        relocations=_relocations(elf),
        debug=_debug(elf),
        gpu_code=tuple(gpu_code),
        modules=tuple(_modules(elf, symbols)),
    )


def _sizes(content: Content, sections: list[Section]) -> SizesReport:
    sizes = collections.Counter[str]()
    for section in sections:
        if not section.flags & SHF_ALLOC:
            if section.name.startswith((".debug", ".zdebug")):
                sizes["debug"] += section.size
        elif section.type == SHT_NOBITS:
            sizes["zeros"] += section.size
        elif section.flags & SHF_EXECINSTR:
            sizes["code"] += section.size
        else:
            sizes["data" if section.flags & SHF_WRITE else "constants"] += section.size
    names = ("code", "constants", "data", "zeros", "debug")
    return SizesReport(content.size, *(sizes[name] for name in names))


def _section_of(elf: ElfFile, symbol: ElfSymbol) -> str:
    special = {SHN_UNDEF: "undefined", SHN_ABS: "absolute", SHN_COMMON: "common"}
    if symbol.section in special:
        return special[symbol.section]
    if symbol.section < len(elf.sections):
        return elf.sections[symbol.section].name
    return "unknown"


def _symbol(elf: ElfFile, symbol: ElfSymbol) -> SymbolReport:
    return SymbolReport(
        symbol.name,
        _KINDS.get(symbol.type, "other"),
        _BINDINGS.get(symbol.binding, "other"),
        symbol.visibility in (_HIDDEN, _INTERNAL),
        _section_of(elf, symbol),
        symbol.value,
        symbol.size,
    )


def _undefined(symbols: list[ElfSymbol]) -> dict[str, bool]:
    """Return the names that are referred to, and whether each is only weakly."""
    names: dict[str, bool] = {}
    for symbol in symbols:
        if symbol.section == SHN_UNDEF and symbol.binding != STB_LOCAL and symbol.name:
            names[symbol.name] = names.get(symbol.name, True) and symbol.binding == 2
    return names


def _functions(
    symbols: list[ElfSymbol], texts: list[bytes], exports: Exports
) -> Iterator[FunctionReport]:
    defined = {
        symbol.name
        for symbol in symbols
        if symbol.section != SHN_UNDEF
        and symbol.binding != STB_LOCAL
        and symbol.visibility not in (_HIDDEN, _INTERNAL)
    }
    names = sorted(
        symbol.removeprefix(_FUNCTION)
        for symbol in defined
        if symbol.startswith(_FUNCTION) and not symbol.startswith(_OF_TVM_FFI)
    )
    found = [_signatures.texts_in(data, names) for data in texts]
    for name in names:
        candidates = (text for by_name in found for text in by_name.get(name, ()))
        in_data = _signatures.from_texts(candidates, name)
        stated, doc = _signatures.split_doc(exports.docs.get(name), name)
        typed = _signatures.from_metadata(exports.metadata.get(name))
        signature = _signatures.combine(stated or in_data, typed)
        has_metadata = _METADATA + name in defined or _DOC + name in defined
        text = None if signature is None else _signatures.shown(signature)
        yield FunctionReport(name, text, doc, has_metadata)


def _scan(elf: ElfFile) -> tuple[list[GpuCodeReport], list[bytes]]:
    """Return the GPU code in what is loaded, and the constants that may hold signatures."""
    code: dict[GpuCodeReport, None] = {}
    texts = []
    for section in elf.sections:
        if not section.flags & SHF_ALLOC or section.flags & SHF_EXECINSTR:
            continue
        data = elf.data(section)
        for found in _gpu.find(data):
            code[_gpu_code(found.kind, found.architecture, section.name)] = None
        if not section.flags & SHF_WRITE and section.name != ".eh_frame":
            texts.append(data)
    return list(code), texts


def _compilers(elf: ElfFile) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for section in elf.sections:
        if section.name == ".comment":
            for text in elf.data(section).split(b"\0"):
                if text.strip():
                    found[text.decode("utf-8", "replace").strip()] = None
    if not found:
        named = producer(elf)
        if named:
            found[named] = None
    return tuple(found)


def _relocations(elf: ElfFile) -> dict[str, int]:
    name = functools.cache(lambda kind: _native.relocation_name(elf.machine, kind))
    counts = collections.Counter[str]()
    sections = elf.sections
    for table, _, kind, _, _ in elf.relocations():
        if table.info >= len(sections) or sections[table.info].flags & SHF_ALLOC:
            known = name(kind)
            counts[f"unknown kind {kind}" if known == "Unknown" else known] += 1
    return dict(counts.most_common())


def _debug(elf: ElfFile) -> str | None:
    for section in elf.sections:
        if section.name in (".debug_info", ".zdebug_info"):
            data = elf.data(section) if section.name == ".debug_info" else b""
            order = "<" if elf.is_little else ">"
            wide = data[:4] == b"\xff\xff\xff\xff"
            text = "DWARF"
            if len(data) >= 14:
                text += f" {struct.unpack_from(order + 'H', data, 12 if wide else 4)[0]}"
            packed = section.name == ".zdebug_info" or section.flags & SHF_COMPRESSED
            return f"{text}, compressed" if packed else text
    return None


def _modules(elf: ElfFile, symbols: list[ElfSymbol]) -> Iterator[ModuleReport]:
    """Yield the modules in the library binary, whose form `native/ffi/module.cc` has."""
    for symbol in symbols:
        if symbol.name != _LIBRARY_BINARY or symbol.section >= len(elf.sections):
            continue
        section = elf.sections[symbol.section]
        start = symbol.value - (section.address if elf.type != 1 else 0)
        if section.type == SHT_NOBITS or not 0 <= start <= section.size:
            continue
        reader = _BinaryReader(
            elf.content.part(_LIBRARY_BINARY, section.offset + start, section.size - start)
        )
        count = len(reader.numbers()) - 1
        reader.numbers()
        for _ in range(count):
            kind = reader.read(reader.number()).decode("utf-8", "replace")
            if kind != "_lib":
                size = reader.number()
                reader.skip(size)
                yield ModuleReport(kind, size)
        return


class _BinaryReader:
    def __init__(self, content: Content) -> None:
        self._content = content
        self._position = 0
        self.number()  # the length

    def read(self, size: int) -> bytes:
        data = self._content.read(self._position, size)
        self._position += size
        return data

    def skip(self, size: int) -> None:
        self._content.part("an embedded module", self._position, size)
        self._position += size

    def number(self) -> int:
        return int.from_bytes(self.read(8), "little")

    def numbers(self) -> list[int]:
        count = self.number()
        data = self.read(8 * count)
        return [number for (number,) in struct.iter_unpack("<Q", data)]
