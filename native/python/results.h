// SPDX-License-Identifier: Apache-2.0
//
// From tvm-ffi's values to Python's, and its errors.
//
// tvm-ffi makes its Python objects in one place only: where a call returns. So these are made by
// calls of functions that return what was left for them.
//
// Everything in this file needs the GIL, or in a free-threaded Python a thread attached to it.
#ifndef OBJECT_LOADER_PYTHON_RESULTS_H_
#define OBJECT_LOADER_PYTHON_RESULTS_H_

#include <Python.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/object.h>

namespace object_loader {

// Each returns a new reference, or null with a Python error set. The value is taken over.
PyObject* ToPython(TVMFFIAny value);
PyObject* ToPython(tvm::ffi::ObjectRef object);

// The same container, which gives out arrays of the framework that `array` is from.
PyObject* ToFramework(PyObject* container, PyObject* array);

// The Python error of a call that returned `code`; null.
PyObject* RaiseFailure(int code);

// Sets the Python error that tvm-ffi raises for `error`.
void SetPythonError(const tvm::ffi::Error& error);

// Prepares the above; returns false with a Python error set.
bool InitResults();

// A tvm_ffi.Function that nobody has but this file; a borrowed reference.
PyObject* SomeFunction();

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_RESULTS_H_
