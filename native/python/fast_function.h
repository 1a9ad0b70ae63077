// SPDX-License-Identifier: Apache-2.0
//
// From tvm-ffi's objects to Python's: functions, modules and errors leave the core through here.
//
// A function becomes an instance of a subclass of tvm_ffi.Function with a vectorcall slot: it packs
// common arguments itself (see function_arguments.h), calls the loaded code through its gate, and
// unpacks numbers and tensors of frameworks. Whatever else there is, arguments of other types,
// keywords, objects returned, errors raised, is left to tvm_ffi.Function, so it is the same there.
//
// Lifetime: such an instance owns a reference to the tvm-ffi function like any other instance of
// its base. Everything in this file needs the GIL, or in a free-threaded Python a thread attached
// to it; there, and where tvm-ffi's classes are not as expected, functions and modules remain as
// tvm-ffi makes them.
#ifndef OBJECT_LOADER_PYTHON_FAST_FUNCTION_H_
#define OBJECT_LOADER_PYTHON_FAST_FUNCTION_H_

#include <Python.h>

#include "ffi/module.h"

namespace object_loader {

// A new reference to the tvm_ffi object for `object` (a tvm_ffi.Module, say), or null with a Python
// error set.
PyObject* ToPython(tvm::ffi::ObjectRef object);

// The same for a function of a module.
PyObject* FunctionToPython(tvm::ffi::Function function);

// The same for a module: an instance of `class_of(type)`, where `type` is what tvm-ffi makes of it.
PyObject* ModuleToPython(tvm::ffi::Module module, PyObject* class_of);

// What FunctionToPython gives, made of a tvm_ffi.Function that only the caller has; others, and
// those that are not of one of our modules, are returned as they are. A new reference.
PyObject* FastFunction(PyObject* function);

// Sets the Python error that tvm-ffi raises for `error`.
void SetPythonError(const tvm::ffi::Error& error);

// Prepares the above; returns false with a Python error set.
bool InitFunctions();

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_FAST_FUNCTION_H_
