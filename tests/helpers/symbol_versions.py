# SPDX-License-Identifier: Apache-2.0
"""Definitions of symbols with versions, uses of them, and what the linker makes of these."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

SCRIPT = """
V1 { global: foo; number; __tvm_ffi_*; };
V2 { global: foo; } V1;
V3 { global: foo; local: *; } V2;
"""


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the linker's option that names the versions V1, V2 and V3."""
    path = tmp_path_factory.mktemp("versions") / "script.map"
    path.write_text(SCRIPT)
    return f"-Wl,--version-script={path}"


Loaded = tol.Dylib | tvm_ffi.Module
Outcome = list[int] | tuple[str, ...]

# What gives the number, under the name.
DEFINITIONS = {
    "function": "int64_t NAME(void) { return NUMBER; }\n",
    "indirect function": """
        static int64_t NAME_target(void) { return NUMBER; }
        static void* NAME_resolver(void) { return (void*)NAME_target; }
        int64_t NAME(void) __attribute__((ifunc("NAME_resolver")));
    """,
    "variable": "int64_t NAME = NUMBER;\n",
    "thread-local variable": "_Thread_local int64_t NAME = NUMBER;\n",
}
USES = {
    "function": ("int64_t NAME(void)", "NAME()"),
    "indirect function": ("int64_t NAME(void)", "NAME()"),
    "variable": ("extern int64_t NAME", "NAME"),
    "thread-local variable": ("extern _Thread_local int64_t NAME", "NAME"),
}
kinds = pytest.mark.parametrize("kind", DEFINITIONS)


def definitions(names: Sequence[str], kind: str = "function", start: int = 1) -> str:
    """Give a source that defines these names, with versions or without; they give 1, 2, …."""
    source = "\n#include <stdint.h>\n"
    for number, name in enumerate(names, start):
        c_name = f"definition{number}" if "@" in name else name
        source += DEFINITIONS[kind].replace("NAME", c_name).replace("NUMBER", str(number))
        if c_name != name:
            source += f'__asm__(".symver {c_name}, {name}");\n'
    return source


def use(references: Sequence[str], kind: str = "function", weak: bool = False) -> str:
    """Give a source of the functions run0, run1, …, which return what these names give."""
    source = '\n#include "safe_call.h"\n'
    for number, reference in enumerate(references):
        c_name = f"reference{number}" if "@" in reference else reference
        declaration, value = (text.replace("NAME", c_name) for text in USES[kind])
        source += declaration + " __attribute__((weak))" * weak + ";\n"
        if c_name != reference:
            source += f'__asm__(".symver {c_name}, {reference}");\n'
        if weak:
            value = f"!&{c_name} ? -1 : {value}"
        source += f"EXPORT(run{number}) {{ RETURN({value}); }}\n"
    return source


def outcome(load: Callable[[], Loaded], references: Sequence[str]) -> Outcome:
    """Return what the functions of `use` give, or what is missing."""
    try:
        loaded = load()
    except tol.UndefinedSymbolError as error:
        assert all(symbol in str(error) for symbol in error.symbols)  # noqa: PT017
        return tuple(sorted(error.symbols))
    return [loaded.get_function(f"run{number}")() for number in range(len(references))]


def loaded(
    session: tol.Session,
    objects: Path | Sequence[Path],
    references: Sequence[str],
    link_order: Sequence[tol.Dylib | Path] = (),
) -> Outcome:
    return outcome(lambda: session.load(objects, link_order=link_order), references)


def linked(
    compile: Compiler, objects: Sequence[Path], references: Sequence[str], *flags: str
) -> Outcome:
    """Return the same of the linked library; nothing may be missing when it is linked."""
    try:
        path = compile.link(*objects, flags=("-Wl,-z,defs", *flags), quiet=True)
    except subprocess.CalledProcessError as error:
        said = subprocess.run(error.cmd, capture_output=True, text=True, check=False).stderr
        return tuple(sorted({name for name in references if f"reference to `{name}'" in said}))
    return outcome(lambda: tvm_ffi.load_module(path, keep_module_alive=False), references)


REFERENCES = ["foo", "foo@V1", "foo@V2", "foo@V3", "foo@NOPE"]


def expected(
    symbols: Sequence[str], references: Sequence[str], unversioned: Sequence[str] = ("",)
) -> Outcome:
    """Return what is to come of references to these symbols, those of no version being in one."""
    numbers: dict[str, int] = {}
    for number, symbol in enumerate(symbols, 1):
        name, _, version = symbol.partition("@")
        is_default = version.startswith("@") or "@" not in symbol
        versions = [version.strip("@")] if "@" in symbol else unversioned
        numbers.update({f"{name}@{each}": number for each in versions if each})
        if is_default:
            numbers[name] = number
    asked = [reference.replace("@@@", "@") for reference in references]
    missing = {each for each in asked if each not in numbers}
    return tuple(sorted(missing)) if missing else [numbers[each] for each in asked]
