// SPDX-License-Identifier: Apache-2.0
#include "python/function_attributes.h"

#include <cstddef>

namespace object_loader {

namespace {

constexpr const char* kFunctions = "tvm_ffi_object_loader.functions";
constexpr const char* kTransport = "tvm_ffi_object_loader.transport";

// A function of the module that does the work, a new reference.
PyObject* InPython(const char* module_name, const char* name) {
  PyObject* module = PyImport_ImportModule(module_name);
  PyObject* function = module ? PyObject_GetAttrString(module, name) : nullptr;
  Py_XDECREF(module);
  return function;
}

PyObject* Ask(const char* module_name, const char* name, PyObject* argument) {
  PyObject* ask = InPython(module_name, name);
  PyObject* result = ask ? PyObject_CallOneArg(ask, argument) : nullptr;
  Py_XDECREF(ask);
  return result;
}

PyObject* GetAttribute(PyObject* function, void* name) {
  return Ask(kFunctions, static_cast<const char*>(name), function);
}

PyObject* Reduce(PyObject* function, PyObject*) {
  return Ask(kTransport, "reduce_function", function);
}

PyObject* Tokenize(PyObject* function, PyObject*) {
  return Ask(kTransport, "tokenize_function", function);
}

PyObject* Itself(PyObject* function, PyObject*) { return Py_NewRef(function); }

// An attribute that is text for the type itself, and is worked out for its instances.
struct DocDescriptor {
  PyObject_HEAD PyObject* text;
};

PyObject* GetDoc(PyObject* self, PyObject* function, PyObject*) {
  if (function && function != Py_None) return Ask(kFunctions, "doc", function);
  return Py_NewRef(reinterpret_cast<DocDescriptor*>(self)->text);
}

void FreeDoc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  Py_XDECREF(reinterpret_cast<DocDescriptor*>(self)->text);
  type->tp_free(self);
  Py_DECREF(type);
}

}  // namespace

PyGetSetDef function_attributes[] = {
    {"__name__", GetAttribute, nullptr, "The function's name.", const_cast<char*>("name")},
    {"__qualname__", GetAttribute, nullptr, "The function's name.", const_cast<char*>("name")},
    {"__signature__", GetAttribute, nullptr, "As inspect.signature returns it.",
     const_cast<char*>("signature")},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMethodDef function_methods[] = {
    {"__reduce__", Reduce, METH_NOARGS, "Return what pickle makes the function of again."},
    {"__copy__", Itself, METH_NOARGS, "Return the function itself."},
    {"__deepcopy__", Itself, METH_O, "Return the function itself."},
    {"__dask_tokenize__", Tokenize, METH_NOARGS, "Return what tells the function from others."},
    {nullptr, nullptr, 0, nullptr}};

PyObject* FunctionRepr(PyObject* function) { return Ask(kFunctions, "show", function); }

bool SetTypeDoc(PyTypeObject* type, const char* text) {
  PyType_Slot slots[] = {{Py_tp_descr_get, reinterpret_cast<void*>(GetDoc)},
                         {Py_tp_dealloc, reinterpret_cast<void*>(FreeDoc)},
                         {0, nullptr}};
  PyType_Spec spec = {"tvm_ffi_object_loader._native.FunctionDoc", sizeof(DocDescriptor), 0,
                      Py_TPFLAGS_DEFAULT, slots};
  auto* descriptor_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  PyObject* descriptor = descriptor_type ? descriptor_type->tp_alloc(descriptor_type, 0) : nullptr;
  bool done = false;
  if (descriptor) {
    auto* doc = reinterpret_cast<DocDescriptor*>(descriptor);
    doc->text = PyUnicode_FromString(text);
    done = doc->text &&
           PyObject_SetAttrString(reinterpret_cast<PyObject*>(type), "__doc__", descriptor) == 0;
  }
  Py_XDECREF(descriptor);
  Py_XDECREF(descriptor_type);
  return done;
}

PyObject* CallWithKeywords(PyObject* function, PyObject* const* arguments, Py_ssize_t count,
                           PyObject* keywords) {
  PyObject* pack = Ask(kFunctions, "packer", function);
  if (!pack) return nullptr;
  PyObject* packed = nullptr;
  PyObject* result = nullptr;
  if (pack != Py_None) {
    packed = PyObject_Vectorcall(pack, arguments, static_cast<size_t>(count), keywords);
    if (packed) result = PyObject_Call(function, packed, nullptr);
  }
  Py_XDECREF(packed);
  Py_DECREF(pack);
  return result;
}

}  // namespace object_loader
