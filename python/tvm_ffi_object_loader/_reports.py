# SPDX-License-Identifier: Apache-2.0
"""What `inspect` returns: data classes, of what is in files and whether it would load."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from . import _native


class _AsDict:
    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dicts, lists, texts and numbers, as JSON has them."""
        return dataclasses.asdict(self, dict_factory=_json_dict)  # type: ignore[call-overload, no-any-return]


def _json_dict(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in items}


@dataclass(frozen=True)
class FunctionReport(_AsDict):
    """A TVM-FFI function that an object exports.

    Attributes
    ----------
    name
        Its name.
    signature
        As text, without the name, or `None` where it is not known.
    doc
        The documentation, or `None`.
    has_metadata
        Whether the object can say more of it when it is run.
    """

    name: str
    signature: str | None
    doc: str | None
    has_metadata: bool


@dataclass(frozen=True)
class ReferenceReport(_AsDict):
    """A symbol that an object refers to and does not define.

    Attributes
    ----------
    symbol
        As the linker knows it.
    where
        Where it is found: ``"process"``, ``"library"`` (one that was given along), ``"package"``
        (supplied, as a linker does), ``"linker"``, ``"objects"`` (those given along), ``"null"``
        (nowhere, which a weak reference may be), ``"unused"`` (nothing that would be loaded refers
        to it), ``"nowhere"``, or ``"unknown"`` where the objects cannot be linked at all.
    library
        The path of the library that has it, where there is one.
    is_weak
        Whether it need not be defined.
    """

    symbol: str
    where: str
    library: str | None
    is_weak: bool

    @property
    def demangled(self) -> str:
        """The symbol as the source has it."""
        return demangled(self.symbol)


@dataclass(frozen=True)
class SymbolReport(_AsDict):
    """An entry of a symbol table.

    Attributes
    ----------
    name
        As the linker knows it.
    kind
        ``"function"``, ``"data"``, ``"thread-local"``, ``"indirect function"`` or ``"other"``.
    binding
        ``"local"``, ``"global"``, ``"weak"`` or ``"unique"``.
    is_hidden
        Whether it is not visible outside of what it is linked into.
    section
        The section that it lies in; ``"undefined"``, ``"absolute"`` or ``"common"`` in others'
        place.
    offset
        In the section, in bytes; of a linked file the address.
    size
        In bytes.
    """

    name: str
    kind: str
    binding: str
    is_hidden: bool
    section: str
    offset: int
    size: int

    @property
    def demangled(self) -> str:
        """The name as the source has it."""
        return demangled(self.name)


@dataclass(frozen=True)
class SizesReport(_AsDict):
    """Sizes in bytes.

    Attributes
    ----------
    file
        Of the whole file.
    code, constants, data, zeros
        What is loaded: code; what is only read; variables with a value, and without.
    debug
        Debug information, as it lies in the file.
    """

    file: int
    code: int
    constants: int
    data: int
    zeros: int
    debug: int


@dataclass(frozen=True)
class GpuCodeReport(_AsDict):
    """Code for a GPU that lies in a file.

    Attributes
    ----------
    kind
        ``"cubin"`` or ``"PTX"``.
    architecture
        Such as ``"sm_90a"``.
    section
        The section that it lies in; empty where the file itself is it.
    runs_here
        Whether a GPU of this machine can run it; `None` where there is no GPU.
    """

    kind: str
    architecture: str
    section: str
    runs_here: bool | None


@dataclass(frozen=True)
class ModuleReport(_AsDict):
    """A module embedded in ``__tvm_ffi__library_bin``.

    Attributes
    ----------
    kind
        What registers its loader: ``"cuda"``, ``"relax.Executable"``.
    size
        In bytes.
    """

    kind: str
    size: int


@dataclass(frozen=True)
class FileReport(_AsDict):
    """What one file, or member of an archive, is and has.

    Attributes
    ----------
    name
        The path, ``"<bytes>"``, or ``"libfoo.a(bar.o)"``.
    kind
        ``"object"``, ``"shared library"``, ``"executable"``, ``"archive"``, ``"thin archive"``,
        ``"tar"``, ``"cubin"`` or ``"other"``.
    problem
        What is wrong with it as a file, or `None`.
    processor
        What it is for, or `None`.
    compilers
        What compiled it, as it says itself.
    functions
        The TVM-FFI functions that it exports, by name.
    references
        What it refers to and does not define.
    symbols
        Its symbol table.
    initializers, finalizers
        How many functions run when it is loaded and unloaded.
    thread_locals
        Bytes that each thread has.
    sizes
        Of its parts.
    relocations
        How many there are of each kind, of what is loaded.
    debug
        The format of its debug information, such as ``"DWARF 5"``, or `None`.
    gpu_code
        Embedded code for GPUs.
    modules
        Embedded modules.
    members
        Of an archive.
    """

    name: str
    kind: str
    sizes: SizesReport
    problem: str | None = None
    processor: str | None = None
    compilers: tuple[str, ...] = ()
    functions: tuple[FunctionReport, ...] = ()
    references: tuple[ReferenceReport, ...] = ()
    symbols: tuple[SymbolReport, ...] = field(default=(), repr=False)
    initializers: int = 0
    finalizers: int = 0
    thread_locals: int = 0
    relocations: dict[str, int] = field(default_factory=dict)
    debug: str | None = None
    gpu_code: tuple[GpuCodeReport, ...] = ()
    modules: tuple[ModuleReport, ...] = ()
    members: tuple[FileReport, ...] = ()


@dataclass(frozen=True)
class Inspection(_AsDict):
    """What files have in them, and whether they would load here.

    Attributes
    ----------
    files
        What was given, in order.
    loads
        Whether all of it together would load in this process, up to what its initializers do;
        `None` where that is only known when it is run, as of a shared library.
    why_not
        Why it would not, as the load would say; `None` where it would.
    gpus
        The compute capabilities of the GPUs of this machine, where there is code for any.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> found = tol.inspect("math_ops.o")
    >>> found.loads, found.files[0].functions[-1].name
    (True, 'simple_subtract')
    """

    files: tuple[FileReport, ...]
    loads: bool | None
    why_not: str | None
    gpus: tuple[str, ...] = ()


def demangled(symbol: str) -> str:
    """Return a symbol as the source has it; one that is not mangled as it is."""
    text = _native.demangle(symbol)
    return text.removesuffix(f" [{symbol}]")
