// SPDX-License-Identifier: Apache-2.0
//
// tvm-ffi's Python classes: what the fast call knows of how they are made.
//
// None of it is promised by tvm-ffi, so it is looked for when the package is imported. Where
// something is not there, or not as expected, it stays null or 0 here, and what needs it is left to
// tvm_ffi.Function.
#ifndef OBJECT_LOADER_PYTHON_CORE_TYPES_H_
#define OBJECT_LOADER_PYTHON_CORE_TYPES_H_

#include <Python.h>
#include <tvm/ffi/c_api.h>

namespace object_loader {

template <typename T>
T& FieldAt(PyObject* object, Py_ssize_t offset) {
  return *reinterpret_cast<T*>(reinterpret_cast<char*>(object) + offset);
}

// The offsets are of fields that the classes' own code reads on every call.
struct CoreTypes {
  PyTypeObject* function = nullptr;    // tvm_ffi.Function
  PyTypeObject* object = nullptr;      // the base of all classes of tvm-ffi's objects
  PyTypeObject* container = nullptr;   // the base of those that may belong to a framework
  Py_ssize_t handle_offset = 0;        // of the void* that is the object
  Py_ssize_t exchange_api_offset = 0;  // of a container's only field: its framework's API, or null
  Py_ssize_t release_gil_offset = 0;   // of the int that says whether calls release the GIL
  PyObject* move_handle = nullptr;     // the name of the method that takes another's handle over

  bool serve_fast_call() const {
    return handle_offset != 0 && release_gil_offset != 0 && move_handle != nullptr;
  }
};
extern CoreTypes types;

// A field that another thread may be writing, where no GIL is in its way.
template <typename T>
T ReadField(PyObject* object, Py_ssize_t offset) {
  return __atomic_load_n(&FieldAt<T>(object, offset), __ATOMIC_RELAXED);
}

inline TVMFFIObject* HandleOf(PyObject* object) {
  return ReadField<TVMFFIObject*>(object, types.handle_offset);
}

// Fills `types`; `function` is any tvm_ffi.Function. Returns false with a Python error set where it
// failed for another reason than that something is not as expected.
bool FindCoreTypes(PyObject* function);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_CORE_TYPES_H_
