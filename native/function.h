// SPDX-License-Identifier: Apache-2.0
//
// From tvm-ffi's objects to Python's: functions, modules and errors leave the core through here.
//
// Everything in this file needs the GIL.
#ifndef OBJECT_LOADER_FUNCTION_H_
#define OBJECT_LOADER_FUNCTION_H_

#include <Python.h>

#include "ffi_module.h"

namespace object_loader {

// A new reference to the tvm_ffi object for `object` (a tvm_ffi.Function, a tvm_ffi.Module), or
// null with a Python error set.
PyObject* ToPython(tvm::ffi::ObjectRef object);

// Sets the Python error that tvm-ffi raises for `error`.
void SetPythonError(const tvm::ffi::Error& error);

// Prepares the above; returns false with a Python error set.
bool InitFunctions();

}  // namespace object_loader

#endif  // OBJECT_LOADER_FUNCTION_H_
