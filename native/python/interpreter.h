// SPDX-License-Identifier: Apache-2.0
//
// CPython's interpreter: whether this thread is in it, and the way out and in again.
#ifndef OBJECT_LOADER_PYTHON_INTERPRETER_H_
#define OBJECT_LOADER_PYTHON_INTERPRETER_H_

#include <Python.h>

namespace object_loader {

// Takes back what PyEval_SaveThread let go of. Does not return where the interpreter has come to
// its end meanwhile.
void ReenterInterpreter(PyThreadState* state);

// Makes CPython's the interpreter that OutsideInterpreter (base/interpreter_lock.h) leaves.
void SetInterpreter();

// Returns false, with an ImportError set, in another interpreter of the process than its first.
bool IsMainInterpreter();

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_INTERPRETER_H_
