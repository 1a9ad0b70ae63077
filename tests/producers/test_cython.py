# SPDX-License-Identifier: Apache-2.0
"""Cython: a module that exports a TVM-FFI function, imported by a function beside it.

Python keeps pointers into the code of a module for as long as the process runs, so it has to stay
loaded, as with tvm_ffi.load_module.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from compilation import Compiler

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("Cython") is None, reason="the package cython is not here"
)
SOURCE = Path(__file__).parent / "sources" / "functions.pyx"
IMPORT = """
#include <Python.h>
#include "safe_call.h"
PyMODINIT_FUNC PyInit_functions(void);
static int import(void) {
  PyObject* made = PyInit_functions();
  if (made == NULL || !PyObject_TypeCheck(made, &PyModuleDef_Type)) return made != NULL;
  PyObject* machinery = PyImport_ImportModule("importlib.machinery");
  if (machinery == NULL) return 0;
  PyObject* spec = PyObject_CallMethod(machinery, "ModuleSpec", "sO", "functions", Py_None);
  if (spec == NULL) return 0;
  PyModuleDef* definition = (PyModuleDef*)made;
  PyObject* module = PyModule_FromDefAndSpec(definition, spec);
  return module != NULL && PyModule_ExecDef(module, definition) == 0;
}
EXPORT(start) {
  PyGILState_STATE state = PyGILState_Ensure();
  int done = import();
  if (!done) PyErr_Print();
  PyGILState_Release(state);
  RETURN(done);
}
"""
SCRIPT = """
import sys
import tvm_ffi
import tvm_ffi_object_loader
functions = tvm_ffi.load_module(sys.argv[1])
print(functions.start(), functions.compute(5), functions.compute(10))
try:
    functions.compute(-3)
except ValueError as error:
    print(error)
"""


def run(path: Path) -> str:
    command = [sys.executable, "-c", SCRIPT, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_a_module(compile: Compiler, tmp_path: Path, level: str) -> None:
    generated = tmp_path / "functions.c"
    command = [sys.executable, "-m", "cython", "-3", str(SOURCE), "-o", str(generated)]
    subprocess.run(command, check=True, timeout=300)
    flags = (level, "-fPIC", "-w", f"-I{sysconfig.get_paths()['include']}")
    try:
        compile("#include <Python.h>\n", *flags)
    except subprocess.CalledProcessError:
        pytest.skip("Python's headers are not here")
    paths = [
        compile(generated.read_text(), *flags, name="functions"),
        compile(IMPORT, *flags, name="import"),
    ]
    archive = tmp_path / "functions.a"
    subprocess.run(["ar", "rcs", archive, *paths], check=True)
    found = run(archive)
    assert found == run(compile.link(*paths))
    assert found == "1 2326 3479\n-3 is negative\n"
