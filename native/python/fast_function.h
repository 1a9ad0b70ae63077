// SPDX-License-Identifier: Apache-2.0
//
// The functions of loaded code, as Python calls them.
//
// A function becomes an instance of a subclass of tvm_ffi.Function with a vectorcall slot: it packs
// common arguments itself (argument_packing.h), calls the loaded code through its gate, and unpacks
// numbers and tensors of frameworks. Whatever else there is, arguments of other types, keywords,
// objects returned, errors raised, is left to tvm_ffi.Function, so it is the same there.
//
// Lifetime: such an instance owns a reference to the tvm-ffi function like any other instance of
// its base. Everything in this file needs the GIL, or in a free-threaded Python a thread attached
// to it. Where tvm-ffi's classes are not as expected (core_types.h), functions remain as tvm-ffi
// makes them.
//
// Concurrency: without a GIL any number of threads may call a function, also while others set its
// release_gil. Nothing is shared by calls but what is known of the arguments' types, which takes no
// lock. Arrays that another thread resizes meanwhile are as safe as in calls of tvm_ffi.Function.
#ifndef OBJECT_LOADER_PYTHON_FAST_FUNCTION_H_
#define OBJECT_LOADER_PYTHON_FAST_FUNCTION_H_

#include <Python.h>

#include "ffi/exported_function.h"

namespace object_loader {

// A new reference to the tvm_ffi.Function for a function of a module, or null with a Python error
// set.
PyObject* FunctionToPython(tvm::ffi::Function function);

// The same, made of a tvm_ffi.Function that is an argument of a call and nowhere else, as what a
// call in the place of the argument returned is. What somebody else has too, and whatever is not a
// function of one of our modules, is returned as it is. A new reference.
PyObject* FastFunction(PyObject* argument);

// What a tvm_ffi.Function in Python stands for, if it is a function of one of our modules; null
// otherwise, and where tvm-ffi's classes are not as expected.
const ExportedFunctionObj* ExportedFunction(PyObject* function);

// Prepares the above, and all else in this room; returns false with a Python error set.
bool InitFunctions();

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_FAST_FUNCTION_H_
