# SPDX-License-Identifier: Apache-2.0
"""Sessions, dylibs and functions in a notebook's kernel: what it shows and completes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler

for needed in ("nbclient", "ipykernel"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed", allow_module_level=True)

TYPED = """
#include <tvm/ffi/function.h>
int64_t Scale(int64_t a, int64_t b) { return a * b; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, Scale);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(scale, "scale(value, factor=2)\\n--\\n\\nMultiply.");
"""


class Kernel:
    """A kernel that runs cells, and answers what a notebook asks of it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, source: str) -> dict[str, Any]:
        """Run a cell, and return what it shows as its value, by the kind of data."""
        shown: dict[str, Any] = {}

        def take(message: Any) -> None:
            if message["msg_type"] == "execute_result":
                shown.update(message["content"]["data"])
            if message["msg_type"] == "error":
                raise AssertionError("\n".join(message["content"]["traceback"]))

        reply = self._client.execute_interactive(source, output_hook=take, timeout=120)
        assert reply["content"]["status"] == "ok", reply["content"]
        return shown

    def complete(self, source: str) -> list[str]:
        """Return what the kernel completes the end of `source` to."""
        reply = self._client.complete(source, len(source), reply=True, timeout=120)
        return list(reply["content"]["matches"])

    def explain(self, source: str) -> str:
        """Return what the kernel shows for ``source?``."""
        reply = self._client.inspect(source, len(source), reply=True, timeout=120)
        return str(reply["content"]["data"]["text/plain"])


@pytest.fixture(scope="module")
def typed(compile: Compiler) -> Path:
    flags = ("-O1", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
    return compile.cxx(TYPED, *flags, name="typed")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = str(tmp_path_factory.mktemp("notebook"))
    paths = [str(Path(tol.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "IPYTHONDIR": folder,
        "JUPYTER_RUNTIME_DIR": folder,
    }


@pytest.fixture(scope="module")
def kernel(typed: Path, environment: dict[str, str]) -> Iterator[Kernel]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", env=environment)
    kernel = Kernel(client)
    kernel.run(
        "import tvm_ffi_object_loader as tol\n"
        "session = tol.Session('notebook')\n"
        f"path = {str(typed)!r}\n"
        "dylib = session.load(path, name='math')\n"
        "module = dylib.module\n"
        "scale = dylib['scale']"
    )
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()
    manager.context.destroy()


def test_a_whole_notebook(typed: Path, environment: dict[str, str]) -> None:
    import nbclient
    import nbformat

    source = f"import tvm_ffi_object_loader as tol\ntol.load_module({str(typed)!r}).scale"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute(env=environment)
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"].startswith("<Function scale(value: int, factor: int = 2)")


def test_a_session_and_a_dylib_are_tables(kernel: Kernel) -> None:
    assert "<td>math</td><td>1</td><td>scale</td>" in kernel.run("session")["text/html"]
    assert "<td>scale</td>" in kernel.run("dylib")["text/html"]


def test_a_function_is_shown_with_its_signature(kernel: Kernel) -> None:
    shown = kernel.run("scale")["text/plain"]
    assert shown == "<Function scale(value: int, factor: int = 2) -> int, dylib 'math'>"


def test_what_is_shown_of_a_function_that_is_asked_about(kernel: Kernel) -> None:
    shown = kernel.explain("scale")
    assert "Multiply." in shown
    assert "factor" in shown


def test_completion(kernel: Kernel) -> None:
    assert any(match.endswith("scale") for match in kernel.complete("module.sc"))
    assert any("math" in match for match in kernel.complete("session['"))
    assert any("scale" in match for match in kernel.complete("dylib['"))
    assert any("factor" in match for match in kernel.complete("scale(1, fa"))


def test_a_cell_that_is_run_again(kernel: Kernel) -> None:
    cell = "again = session.load(path, name='again', replace=True)\nagain['scale'](value=21)"
    for _ in range(2):
        assert kernel.run(cell)["text/plain"] == "42"
    assert kernel.run("sorted(session.dylibs)")["text/plain"] == "['again', 'math']"
