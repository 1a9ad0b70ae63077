// SPDX-License-Identifier: Apache-2.0
#include "python/exceptions.h"

#include <cstring>
#include <new>

#include "python/conversions.h"
#include "python/results.h"

namespace object_loader {

namespace nb = nanobind;

namespace {

void SetError(const char* name, const std::exception& error, nb::object symbols = {}) {
  nb::object type = nb::module_::import_("tvm_ffi_object_loader.errors").attr(name);
  nb::object message = ToStr(error.what());
  nb::object instance = symbols.is_valid() ? type(message, symbols) : type(message);
  PyErr_SetObject(type.ptr(), instance.ptr());
}

// Names the libraries that have the symbols, which are looked for.
nb::object UndefinedSymbolErrorOf(const UndefinedSymbolError& error) {
  return nb::module_::import_("tvm_ffi_object_loader._runtime_libraries")
      .attr("undefined_symbol_error")(ToStr(error.what()), ToTuple(error.symbols));
}

}  // namespace

std::string MessageOf(const UndefinedSymbolError& error) {
  if (!Py_IsInitialized()) return error.what();
  nb::gil_scoped_acquire in_interpreter;
  try {
    return FromStr(nb::str(UndefinedSymbolErrorOf(error)));
  } catch (const nb::python_error&) {
    return error.what();
  }
}

void Translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const UndefinedSymbolError& error) {
    nb::object instance = UndefinedSymbolErrorOf(error);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(instance.ptr())), instance.ptr());
  } catch (const DuplicateSymbolError& error) {
    SetError("DuplicateSymbolError", error, ToTuple(error.symbols));
  } catch (const LinkError& error) {
    SetError("LinkError", error);
  } catch (const ObjectFormatError& error) {
    SetError("ObjectFormatError", error);
  } catch (const FunctionNotFoundError& error) {
    SetError("FunctionNotFoundError", error);
  } catch (const SessionClosedError& error) {
    SetError("SessionClosedError", error);
  } catch (const ObjectLoaderError& error) {
    SetError("ObjectLoaderError", error);
  } catch (const FileError& error) {
    // OSError picks the subclass that belongs to the number.
    nb::object instance =
        nb::borrow(PyExc_OSError)(error.code, std::strerror(error.code), ToStr(error.path));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(instance.ptr())), instance.ptr());
  } catch (const OutOfMemoryError& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const tvm::ffi::Error& error) {
    SetPythonError(error);
  }
}

nb::object ErrorOf(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const nb::python_error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (...) {
    Translate(exception, nullptr);
  }
  if (!PyErr_Occurred()) std::rethrow_exception(exception);
  nb::python_error error;
  return nb::borrow(error.value());
}

}  // namespace object_loader
