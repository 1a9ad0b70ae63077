// SPDX-License-Identifier: Apache-2.0
//
// What the functions of loaded code say of themselves in Python, __name__, __doc__, __signature__
// and the like, calls with keywords, and what sends functions to other processes.
//
// All of it is done in Python (tvm_ffi_object_loader.functions and .transport), when it is asked
// for: looking a function up and calling it with positional arguments cost what they did. Needs the
// GIL.
#ifndef OBJECT_LOADER_PYTHON_FUNCTION_ATTRIBUTES_H_
#define OBJECT_LOADER_PYTHON_FUNCTION_ATTRIBUTES_H_

#include <Python.h>

namespace object_loader {

// The attributes that are worked out; ends with an empty one.
extern PyGetSetDef function_attributes[];

// What pickle, copy and Dask ask for. The module `transport` does the work.
extern PyMethodDef function_methods[];

// As tp_repr.
PyObject* FunctionRepr(PyObject* function);

// Gives a type whose instances have a documentation of their own one for itself. Returns false with
// a Python error set.
bool SetTypeDoc(PyTypeObject* type, const char* text);

// Calls the function with positional arguments that stand for these; null with a Python error set
// if it fails, or without one if the names of the function's parameters are not known.
PyObject* CallWithKeywords(PyObject* function, PyObject* const* arguments, Py_ssize_t count,
                           PyObject* keywords);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_FUNCTION_ATTRIBUTES_H_
