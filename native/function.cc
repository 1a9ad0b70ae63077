// SPDX-License-Identifier: Apache-2.0
#include "function.h"

#include <utility>

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

// tvm-ffi makes its Python objects in one place only: where a call returns. So these are two
// functions to call through tvm_ffi.Function; one returns the object that it is given the address
// of, with the reference that it is given, the other one fails with the error that was left.
PyObject* return_object = nullptr;
PyObject* raise_error = nullptr;

int ReturnObject(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  result->v_obj = reinterpret_cast<TVMFFIObject*>(args[0].v_int64);
  result->type_index = result->v_obj->type_index;
  return 0;
}

int RaiseError(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return -1; }

// Whether or not this thread has the GIL now: what is dropped last may be dropped anywhere.
void* LeaveInterpreter() {
  return Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr;
}

void ReenterInterpreter(void* state) {
  if (state) PyEval_RestoreThread(static_cast<PyThreadState*>(state));
}

PyObject* FromExternC(PyObject* function_type, TVMFFISafeCallType function) {
  return PyObject_CallMethod(function_type, "__from_extern_c__", "K",
                             reinterpret_cast<unsigned long long>(function));
}

}  // namespace

PyObject* ToPython(ffi::ObjectRef object) {
  TVMFFIObject* handle = ffi::detail::ObjectUnsafe::MoveObjectRefToTVMFFIObjectPtr(std::move(object));
  PyObject* result =
      PyObject_CallFunction(return_object, "K", reinterpret_cast<unsigned long long>(handle));
  return result;
}

void SetPythonError(const ffi::Error& error) {
  ffi::detail::SetSafeCallRaised(error);
  Py_XDECREF(PyObject_CallNoArgs(raise_error));
}

bool InitFunctions() {
  SetInterpreterLock(LeaveInterpreter, ReenterInterpreter);
  PyObject* core = PyImport_ImportModule("tvm_ffi.core");
  PyObject* type = core ? PyObject_GetAttrString(core, "Function") : nullptr;
  if (type) {
    return_object = FromExternC(type, ReturnObject);
    raise_error = FromExternC(type, RaiseError);
  }
  Py_XDECREF(type);
  Py_XDECREF(core);
  return return_object && raise_error;
}

}  // namespace object_loader
