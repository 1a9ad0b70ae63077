# SPDX-License-Identifier: Apache-2.0
"""The native files depend on each other, and on other projects, in one direction only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NATIVE = Path(__file__).parent.parent / "native"
LAYERS = [
    "error",
    "fork_lock",
    "interpreter_lock",
    "exit_handlers",
    "headroom",
    "relocation",
    "file_content",
    "object_validation",
    "object_file",
    "archive",
    "shared_library",
    "tls_module",
    "thread_local",
    "thread_exit",
    "link_graph",
    "free_ranges",
    "arena",
    "memory",
    "unwind",
    "eh_frame",
    "image",
    "platform",
    "session",
    "call_guard",
    "turns",
    "symbol_names",
    "inputs",
    "code_map",
    "dylib",
    "dylib_load",
    "dylib_symbols",
    "ffi_objects",
    "ffi_module",
    "function_arguments",
    "function",
    "bindings",
]
SUFFIXES = {".h", ".cc", ".c"}

pytestmark = pytest.mark.skipif(not NATIVE.is_dir(), reason="the project's sources are not here")


def files() -> list[Path]:
    return sorted(path for path in NATIVE.iterdir() if path.suffix in SUFFIXES)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def breaches(allowed: set[str], pattern: str) -> list[str]:
    """Return the includes that match `pattern` in files of layers other than `allowed`."""
    return [
        f"{path.name}: {name}"
        for path in files()
        for name in includes(path)
        if re.match(pattern, name) and path.stem not in allowed
    ]


def test_every_native_file_belongs_to_a_layer() -> None:
    # support.c is compiled on its own and embedded; it includes nothing of the project.
    assert {path.stem for path in files()} - {"support"} == set(LAYERS)


def test_a_file_includes_only_layers_above_its_own() -> None:
    order = {layer: rank for rank, layer in enumerate(LAYERS)}
    wrong = []
    for path in files():
        for name in includes(path):
            target = Path(name)
            if target.parent != Path() or target.stem not in order or target.suffix != ".h":
                continue
            if path.stem == "support" or order[target.stem] > order[path.stem]:
                wrong.append(f"{path.name} includes {name}")
    assert wrong == []


def test_project_headers_are_included_by_their_plain_names() -> None:
    present = {path.name for path in files()}
    for path in files():
        local = re.findall(r'#\s*include\s*"([^"]+)"', path.read_text())
        assert [name for name in local if name not in present] == []


def test_only_the_upper_layers_include_tvm_ffi() -> None:
    assert (
        breaches(
            {"ffi_objects", "ffi_module", "function_arguments", "function", "bindings"},
            r"tvm/|dlpack/|tvm_ffi",
        )
        == []
    )


def test_only_function_and_bindings_include_python() -> None:
    allowed = {"function_arguments", "function", "bindings"}
    assert breaches(allowed, r"Python\.h|nanobind/|cpython/|py\w*\.h") == []


def test_only_the_platform_asks_for_the_system_or_the_llvm_version() -> None:
    condition = re.compile(
        r"^\s*#\s*(?:el)?if.*\b(LLVM_VERSION\w*|__linux__|__APPLE__|_WIN32|__x86_64__|__aarch64__|"
        r"__GLIBC__)\b",
        re.MULTILINE,
    )
    wrong = [
        path.name
        for path in files()
        if path.stem not in {"platform", "support"} and condition.search(path.read_text())
    ]
    assert wrong == []


def test_files_are_licensed() -> None:
    for path in files():
        assert "SPDX-License-Identifier: Apache-2.0" in path.read_text().splitlines()[0], path.name
