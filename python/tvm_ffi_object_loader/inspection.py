# SPDX-License-Identifier: Apache-2.0
"""What is in objects and other files, and whether they would load: without running any of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import _gpu, _native
from ._contents import Content, OpenFile, archive_members, of_bytes
from ._elf import ElfFile, MalformedError
from ._object_report import Exports, cubin_report, report_elf
from ._reports import (
    FileReport,
    FunctionReport,
    GpuCodeReport,
    Inspection,
    ModuleReport,
    ReferenceReport,
    SizesReport,
    SymbolReport,
)
from .arguments import list_objects, open_tars, require_bool
from .errors import ObjectFormatError, UndefinedSymbolError
from .session import Session

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .arguments import Objects

__all__ = [
    "FileReport",
    "FunctionReport",
    "GpuCodeReport",
    "Inspection",
    "ModuleReport",
    "ReferenceReport",
    "SizesReport",
    "SymbolReport",
    "inspect",
]


def inspect(objects: Objects, *, whole_archive: bool = False, run: bool = False) -> Inspection:
    """Tell what is in objects, and whether they would load here.

    Nothing of them is run, unless `run` says so: files are read, and objects are linked and
    forgotten, without their initializers.

    Parameters
    ----------
    objects
        As for `Dylib.load`: those given together would be linked together. Files of any other kind
        are told, too: what they are, and why they cannot be loaded.
    whole_archive
        As for `Dylib.load`.
    run
        Load the objects as well, in a session of their own, and ask them for what they say of
        their functions: signatures and documentation that ``TVM_FFI_DLL_EXPORT_TYPED_FUNC`` writes
        are code. Their initializers are run for that.

    Returns
    -------
    Inspection
        What was found. What is wrong with a file is a part of that, and raises nothing.

    Raises
    ------
    ObjectLoaderError
        If `run` is set, and loading fails.
    OSError
        If a file cannot be read.
    TypeError
        If ``objects``, or an element of it, is neither a path nor bytes-like.
    ValueError
        If the iterable is empty, or a path holds a null character.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> found = tol.inspect("math_ops.o")
    >>> found.files[0].kind, found.loads
    ('object', True)
    >>> tol.inspect(b"no object").why_not
    '<bytes>: is not an object file (it does not begin with an ELF header)'
    """
    require_bool("whole_archive", whole_archive)
    require_bool("run", run)
    inputs = list_objects(objects)
    exports = _ask(inputs, whole_archive) if run else Exports()
    files = tuple(_report(item, exports) for item in inputs)
    error, references, is_complete = _check(inputs, whole_archive)
    files, missing = _bind(files, references, error)
    loads: bool | None = error is None
    if isinstance(error, UndefinedSymbolError) and not missing:
        loads, error = True, None
    why_not = None if error is None else str(error)
    if loads and not is_complete:
        loads = None
    gpus: tuple[str, ...] = ()
    if any(file.gpu_code for file in _flat(files)):
        gpus = tuple(f"{major}.{minor}" for major, minor in _gpu.capabilities())
    return Inspection(files, loads, why_not, gpus)


def _flat(files: Iterable[FileReport]) -> Iterator[FileReport]:
    for file in files:
        yield file
        yield from _flat(file.members)


def _ask(inputs: list[str | Buffer], whole_archive: bool) -> Exports:
    """Return what the functions say of themselves, when they are loaded."""
    exports = Exports()
    with Session() as session:
        dylib = session.load(inputs, whole_archive=whole_archive)
        for name in dylib.functions:
            exports.metadata[name] = dylib.get_function_metadata(name)
            exports.docs[name] = dylib.get_function_doc(name)
    return exports


Found = tuple[str, str, str, str, bool]


def _check(
    inputs: list[str | Buffer], whole_archive: bool
) -> tuple[Exception | None, dict[str, Found], bool]:
    """Return why the inputs would not load, what they refer to, and whether all was tried."""
    try:
        opened = open_tars(inputs)
    except ObjectFormatError as error:
        return error, {}, True
    why_not, linked, references = _native.check(opened, whole_archive)
    libraries = any(isinstance(item, str) and _is_library(item) for item in inputs)
    return why_not, {found[0]: found for found in references}, bool(linked) or not libraries


def _is_library(path: str) -> bool:
    try:
        with OpenFile(path) as content:
            return _kind(content) == "shared library"
    except (OSError, MalformedError):
        return False


def _kind(content: Content) -> str:
    if content.is_archive:
        return "thin archive" if content.is_thin else "archive"
    if content.read(0, min(4, content.size)) != b"\x7fELF":
        return "other"
    elf = ElfFile(content)
    if elf.machine == 190:
        return "cubin"
    kinds = {1: "object", 2: "executable", 3: "shared library", 4: "core file"}
    return kinds.get(elf.type, "other")


def _report(item: str | Buffer, exports: Exports) -> FileReport:
    if not isinstance(item, str):
        return _report_content(of_bytes(item), exports)
    try:
        with OpenFile(item) as content:
            if item.endswith(".tar"):
                return _report_tar(item, content.size, exports)
            return _report_content(content, exports)
    except MalformedError as error:
        return FileReport(item, "other", SizesReport(0, 0, 0, 0, 0, 0), str(error))


def _report_tar(path: str, size: int, exports: Exports) -> FileReport:
    import tarfile

    sizes = SizesReport(size, 0, 0, 0, 0, 0)
    members = []
    problem = None
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    name = f"{path}({member.name})"
                    members.append(_report_content(of_bytes(file.read(), name), exports))
    except (tarfile.TarError, EOFError) as error:
        problem = f"cannot be read as a tar archive: {error}"
    return FileReport(path, "tar", sizes, problem, members=tuple(members))


def _report_content(content: Content, exports: Exports) -> FileReport:
    sizes = SizesReport(content.size, 0, 0, 0, 0, 0)
    kind = "other"
    try:
        kind = _kind(content)
        if kind == "other":
            return FileReport(content.name, kind, sizes)
        if kind == "cubin":
            return cubin_report(content)
        if "archive" not in kind:
            return report_elf(content, kind, exports)
    except MalformedError as error:
        return FileReport(content.name, kind, sizes, str(error))
    members = []
    problem = None
    try:
        for name, member in archive_members(content):
            if not isinstance(member, Path):
                members.append(_report_content(member, exports))
                continue
            try:
                with OpenFile(os.fspath(member)) as file:
                    members.append(dataclasses.replace(_report_content(file, exports), name=name))
            except OSError as error:
                members.append(FileReport(name, "other", sizes, f"{member}: {error.strerror}"))
    except MalformedError as error:
        problem = str(error)
    return FileReport(content.name, kind, sizes, problem, members=tuple(members))


def _bind(
    files: tuple[FileReport, ...], found: dict[str, Found], error: Exception | None
) -> tuple[tuple[FileReport, ...], list[str]]:
    """Say of each reference where it is found; return also those that are found nowhere."""
    is_bound = error is None or bool(found)
    missing: list[str] = []
    offered: dict[str, str] = {}
    defined: set[str] = set()
    for file in _flat(files):
        for symbol in file.symbols:
            if symbol.section == "undefined" or symbol.binding == "local":
                continue
            if file.kind == "shared library":
                offered.setdefault(symbol.name.split("@")[0], file.name)
            else:
                defined.add(symbol.name)

    def bound(reference: ReferenceReport) -> ReferenceReport:
        name = reference.symbol
        entry = found.get(name)
        library: str | None = None
        if entry is not None:
            where, library = entry[2], entry[3] or None
            if where == "nowhere" and name.split("@")[0] in offered:
                where, library = "library", offered[name.split("@")[0]]
            elif where == "nowhere":
                missing.append(name)
        elif name in defined:
            where = "objects"
        elif name == "_GLOBAL_OFFSET_TABLE_":  # each load's own, and relocations need no symbol
            where = "linker"
        else:
            where = "unused" if is_bound else "unknown"
        return dataclasses.replace(reference, where=where, library=library)

    def bound_file(file: FileReport) -> FileReport:
        if file.kind == "shared library":
            return file
        return dataclasses.replace(
            file,
            references=tuple(map(bound, file.references)),
            members=tuple(map(bound_file, file.members)),
        )

    return tuple(map(bound_file, files)), missing
