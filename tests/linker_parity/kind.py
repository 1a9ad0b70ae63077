# SPDX-License-Identifier: Apache-2.0
"""Kind: one kind of object files, how it is made, and what is called in it.

Every source of a kind defines functions with EXPORT of safe_call.h; ``run`` is called with each of
the kind's arguments, and its results are compared with those of the same objects after
``cc -shared`` and dlopen.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from compilation import TOOLCHAINS, Compiler, Language, Toolchain
from processors import PROCESSOR, PROCESSORS, Processor, lacks

LEVELS = ("-O0", "-O1", "-O2", "-O3")

C_HEADER = '#include "safe_call.h"\n'


class Variant(NamedTuple):
    """One way of compiling a kind."""

    toolchain: Toolchain
    level: str

    def __str__(self) -> str:
        return f"{self.toolchain.name} {self.level}".strip()


# Turns the objects of the sources into the ones to load, in a folder for it.
Step = Callable[[list[Path], Path], list[Path]]


@dataclass(frozen=True)
class Kind:
    """One kind of objects.

    Attributes
    ----------
    title
        What users know it by: the row of the table. Kinds of one title share a row.
    sources
        The text of each object's source; C sources may use safe_call.h.
    flags
        Flags of the compiler besides the level of optimization, for all sources.
    case
        What sets this kind apart from others of its title.
    levels, toolchains
        How it is compiled. Sources in assembler need one level; so do sources with unique symbols
        (static members of templates, static variables of inline functions), which all libraries of
        a process share.
    arguments
        What ``run`` is called with, one after the other.
    step
        What is done to the objects before they are loaded.
    link_flags
        What `cc -shared` needs for the oracle.
    preload
        Shared libraries that must be in the process, as a dlopened one would bring them.
    reference_flags
        Flags for the oracle's objects, where no linker makes a shared library of the kind's own.
    expected
        The results, where no linker makes a shared library of the kind at all.
    refused
        What this package says where it refuses the kind, in each of the error's texts.
    processors
        Those that there are objects of this kind for, as far as the flags do not say so.
    """

    title: str
    sources: tuple[str, ...]
    flags: tuple[str, ...] = ("-fPIC",)
    case: str = ""
    language: Language = "c"
    levels: tuple[str, ...] = LEVELS
    toolchains: tuple[str, ...] = ("gcc", "clang")
    arguments: tuple[int, ...] = (0, 1, 2, 3)
    step: Step | None = None
    link_flags: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    reference_flags: tuple[str, ...] | None = None
    expected: tuple[int, ...] | None = None
    refused: str = ""
    processors: tuple[Processor, ...] = tuple(PROCESSORS.values())

    @property
    def name(self) -> str:
        return f"{self.title}: {self.case}" if self.case else self.title

    @property
    def exists(self) -> bool:
        """Whether compilers make such objects for the processor that the tests run on."""
        return PROCESSOR in self.processors and any(
            not lacks(name, self.flags) for name in self.toolchains
        )

    @property
    def usual_level(self) -> str:
        """The level of optimization that stands for the others."""
        return "-O2" if "-O2" in self.levels else self.levels[-1]

    def variants(self) -> Iterator[Variant]:
        for toolchain, level in itertools.product(TOOLCHAINS, self.levels):
            if toolchain.name in self.toolchains and not lacks(toolchain.name, self.flags):
                yield Variant(toolchain, level)

    def objects(
        self, compile: Compiler, variant: Variant, flags: tuple[str, ...] | None = None
    ) -> list[Path]:
        """Compile the sources; give the objects to load."""
        header = "" if self.language == "assembler" else C_HEADER
        flags = (*variant.level.split(), *(self.flags if flags is None else flags))
        made = [
            compile(header + source, *flags, language=self.language, toolchain=variant.toolchain)
            for source in self.sources
        ]
        if self.step is None:
            return made
        folder = made[0].with_suffix(".parts")
        folder.mkdir(exist_ok=True)
        return self.step(made, folder)

    def reference(self, compile: Compiler, variant: Variant) -> Path:
        """Link the oracle: a shared library of the same sources."""
        return compile.link(
            *self.objects(compile, variant, self.reference_flags), flags=self.link_flags
        )


def partially_linked(objects: list[Path], folder: Path) -> list[Path]:
    """Link the objects to one with ``ld -r``."""
    result = folder / "linked.o"
    subprocess.run(["ld", "-r", *objects, "-o", result], check=True)
    return [result]


def objcopied(*options: str) -> Step:
    """Give a step that passes each object through ``objcopy``."""

    def step(objects: list[Path], folder: Path) -> list[Path]:
        results = [folder / path.name for path in objects]
        for path, result in zip(objects, results, strict=True):
            subprocess.run(["objcopy", *options, path, result], check=True)
        return results

    return step


# gas warns of sections whose flags are unusual, which is what some of the kinds are about.
assembler = functools.partial(
    Kind, language="assembler", levels=("",), flags=("-c", "-Wa,--no-warn")
)
