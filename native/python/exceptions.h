// SPDX-License-Identifier: Apache-2.0
//
// Our exceptions as Python's.
#ifndef OBJECT_LOADER_PYTHON_EXCEPTIONS_H_
#define OBJECT_LOADER_PYTHON_EXCEPTIONS_H_

#include <nanobind/nanobind.h>

#include <exception>
#include <string>

#include "base/error.h"

namespace object_loader {

// Sets the Python error that an exception of ours, or of tvm-ffi, stands for; lets others pass. As
// nanobind::register_exception_translator takes it.
void Translate(const std::exception_ptr& exception, void*);

// What the Python error says, which is the cause and where the symbols are. In any thread.
std::string MessageOf(const UndefinedSymbolError& error);

// That Python error as an object. Throws the exception itself where it is no object of ours.
nanobind::object ErrorOf(const std::exception_ptr& exception);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_EXCEPTIONS_H_
