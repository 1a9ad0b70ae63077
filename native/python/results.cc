// SPDX-License-Identifier: Apache-2.0
#include "python/results.h"

#include <tvm/ffi/function.h>

#include <string>
#include <string_view>
#include <utility>

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

// The first one returns what was left in `handed_over`, the second one its second argument, and the
// third one fails with the error that was left in tvm-ffi.
PyObject* return_value = nullptr;
PyObject* return_second = nullptr;
PyObject* raise_error = nullptr;
thread_local TVMFFIAny handed_over = {};
thread_local int failed_with = -1;

int ReturnValue(void*, const TVMFFIAny*, int32_t, TVMFFIAny* result) {
  *result = std::exchange(handed_over, {});
  return 0;
}

int ReturnSecond(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  return TVMFFIAnyViewToOwnedAny(&args[1], result);
}

int RaiseError(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return failed_with; }

// A tvm_ffi.Function over a C function. It takes the way of all functions with a name, which every
// release of tvm-ffi has, and loses its name again.
PyObject* MakeFunction(PyObject* registry, TVMFFISafeCallType call, const char* name) {
  TVMFFIObjectHandle function;
  TVMFFIByteArray key = {name, std::string_view(name).size()};
  int failed = TVMFFIFunctionCreate(nullptr, call, nullptr, &function);
  if (!failed) {
    failed = TVMFFIFunctionSetGlobal(&key, function, 1);
    TVMFFIObjectDecRef(function);
  }
  if (failed) {
    PyErr_Format(PyExc_ImportError, "apache-tvm-ffi refuses a function with the name %s", name);
    return nullptr;
  }
  PyObject* made = PyObject_CallMethod(registry, "get_global_func", "s", name);
  if (!made) return nullptr;
  PyObject* removed = PyObject_CallMethod(registry, "remove_global_func", "s", name);
  if (!removed) PyErr_Clear();
  Py_XDECREF(removed);
  return made;
}

}  // namespace

PyObject* ToPython(TVMFFIAny value) {
  handed_over = value;
  return PyObject_CallNoArgs(return_value);
}

PyObject* ToPython(ffi::ObjectRef object) {
  TVMFFIAny value = {};
  value.v_obj = ffi::detail::ObjectUnsafe::MoveObjectRefToTVMFFIObjectPtr(std::move(object));
  value.type_index = value.v_obj->type_index;
  return ToPython(value);
}

PyObject* ToFramework(PyObject* container, PyObject* array) {
  // tvm-ffi tells the framework by the other argument.
  PyObject* arguments[] = {array, container};
  return PyObject_Vectorcall(return_second, arguments, 2, nullptr);
}

PyObject* RaiseFailure(int code) {
  failed_with = code;
  return PyObject_CallNoArgs(raise_error);
}

void SetPythonError(const ffi::Error& error) {
  ffi::detail::SetSafeCallRaised(error);
  Py_XDECREF(RaiseFailure(-1));
}

bool InitResults() {
  PyObject* registry = PyImport_ImportModule("tvm_ffi.registry");
  if (!registry) return false;
  return_value = MakeFunction(registry, ReturnValue, "tvm_ffi_object_loader.return_value");
  return_second = MakeFunction(registry, ReturnSecond, "tvm_ffi_object_loader.return_second");
  raise_error = MakeFunction(registry, RaiseError, "tvm_ffi_object_loader.raise_error");
  Py_DECREF(registry);
  if (!return_value || !return_second || !raise_error) return false;
  // They pass on what was left for them; nothing may run in between, and nothing takes time.
  for (PyObject* function : {return_value, raise_error}) {
    if (!PyObject_HasAttrString(function, "release_gil")) continue;
    if (PyObject_SetAttrString(function, "release_gil", Py_False) != 0) PyErr_Clear();
  }
  return true;
}

PyObject* SomeFunction() { return return_second; }

}  // namespace object_loader
