// SPDX-License-Identifier: Apache-2.0
#include "python/core_types.h"

#include <initializer_list>

namespace object_loader {

CoreTypes types;

namespace {

// A new reference, or null without an error set, where there is no such class.
PyTypeObject* FindClass(PyObject* module, const char* name) {
  PyObject* found = PyObject_GetAttrString(module, name);
  if (found && PyType_Check(found)) return reinterpret_cast<PyTypeObject*>(found);
  PyErr_Clear();
  Py_XDECREF(found);
  return nullptr;
}

void FindClasses(PyObject* core) {
  types.object = FindClass(core, "CObject");
  if (types.object && !PyType_IsSubtype(types.function, types.object)) types.object = nullptr;
  types.container = types.object ? FindClass(core, "CContainerBase") : nullptr;
  if (types.container && types.container->tp_base == types.object &&
      types.container->tp_basicsize ==
          types.object->tp_basicsize + static_cast<Py_ssize_t>(sizeof(void*))) {
    types.exchange_api_offset = types.object->tp_basicsize;
  }
}

// The offset of the one word of the function that is the value of its method __chandle__.
void FindHandle(PyObject* function) {
  PyObject* handle = PyObject_CallMethod(function, "__chandle__", nullptr);
  unsigned long long expected = handle ? PyLong_AsUnsignedLongLong(handle) : 0;
  Py_XDECREF(handle);
  if (PyErr_Occurred()) PyErr_Clear();
  if (expected == 0) return;
  Py_ssize_t size = types.function->tp_basicsize;
  int found = 0;
  for (Py_ssize_t at = sizeof(PyObject); at + Py_ssize_t{8} <= size; at += 8) {
    if (FieldAt<unsigned long long>(function, at) != expected) continue;
    types.handle_offset = at;
    ++found;
  }
  if (found != 1) types.handle_offset = 0;
}

// The offset of the one int of the function that follows its property release_gil.
bool FindReleaseGil(PyObject* function) {
  PyObject* before = PyObject_GetAttrString(function, "release_gil");
  if (!before) {
    PyErr_Clear();
    return true;
  }
  Py_ssize_t size = types.function->tp_basicsize;
  int found = 0;
  bool is_settable = true;
  for (Py_ssize_t at = sizeof(PyObject); at + Py_ssize_t{sizeof(int)} <= size; at += sizeof(int)) {
    bool follows = true;
    for (int value : {1, 0, 1}) {
      is_settable = is_settable && PyObject_SetAttrString(function, "release_gil",
                                                          value ? Py_True : Py_False) == 0;
      follows = follows && is_settable && FieldAt<int>(function, at) == value;
    }
    if (!follows) continue;
    types.release_gil_offset = at;
    ++found;
  }
  if (found != 1) types.release_gil_offset = 0;
  if (!is_settable) PyErr_Clear();
  bool restored = !is_settable || PyObject_SetAttrString(function, "release_gil", before) == 0;
  Py_DECREF(before);
  return restored;
}

bool FindMoveHandle() {
  const char* name = "__move_handle_from__";
  if (!PyObject_HasAttrString(reinterpret_cast<PyObject*>(types.function), name)) return true;
  types.move_handle = PyUnicode_InternFromString(name);
  return types.move_handle != nullptr;
}

}  // namespace

bool FindCoreTypes(PyObject* function) {
  types.function = reinterpret_cast<PyTypeObject*>(Py_NewRef(Py_TYPE(function)));
  PyObject* core = PyImport_ImportModule("tvm_ffi.core");
  if (core) FindClasses(core);
  if (!core) PyErr_Clear();
  Py_XDECREF(core);
  FindHandle(function);
  return FindReleaseGil(function) && FindMoveHandle();
}

}  // namespace object_loader
