// SPDX-License-Identifier: Apache-2.0
//
// The Python module `_native`, and what it sets up.
//
// The GIL is released while objects are read and linked, and while anything is closed or dropped.
// Where there is none, threads detach from the interpreter there.
#include <llvm/Config/llvm-config.h>
#include <nanobind/nanobind.h>

#include "ffi/abi.h"
#include "os/exit_handlers.h"
#include "python/conversions.h"
#include "python/dylibs.h"
#include "python/exceptions.h"
#include "python/fast_function.h"
#include "python/inspection.h"
#include "python/interpreter.h"
#include "python/recipes.h"
#include "python/sessions.h"
#include "python/symbols.h"

namespace nb = nanobind;
using namespace nb::literals;

NB_MODULE(_native, m) {
  using namespace object_loader;
  if (!IsMainInterpreter()) throw nb::python_error();
  // Removed from sys.modules and imported again, it is as it was: what it has set up stays.
  static PyObject* contents = nullptr;
  if (contents) {
    if (PyDict_Update(PyModule_GetDict(m.ptr()), contents) != 0) throw nb::python_error();
    return;
  }
  m.doc() = "The linker behind tvm_ffi_object_loader.";
  m.attr("llvm_version") = LLVM_VERSION_STRING;
  nb::register_exception_translator(Translate);
  // The default session lives until the process ends, and so do its Python objects.
  nb::set_leak_warnings(false);
  CheckAbi();
  if (!InitFunctions()) throw nb::python_error();
  RunFinalizersAtExit();
  BindSession(m);
  BindDylib(m);
  BindSymbols(m);
  BindInspection(m);
  BindRecipes(m);
  m.def(
      "fast_function", [](nb::handle function) { return Steal(FastFunction(function.ptr())); },
      "function"_a, nb::sig("def fast_function(function: tvm_ffi.Function) -> tvm_ffi.Function"));
  // For what nobody is there to catch: sys.unraisablehook gets it.
  m.def(
      "discard",
      [](nb::handle error, nb::handle where) {
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
        PyErr_WriteUnraisable(where.ptr());
      },
      "error"_a, "where"_a, nb::sig("def discard(error: BaseException, where: object) -> None"));
  contents = PyDict_Copy(PyModule_GetDict(m.ptr()));
  if (!contents) throw nb::python_error();
}
