// SPDX-License-Identifier: Apache-2.0
#include "python/argument_packing.h"

#include <cstdlib>
#include <new>
#include <string_view>
#include <unordered_map>

namespace object_loader {

CoreTypes types;

namespace {

PyTypeObject* numpy_array = nullptr;  // null: no NumPy
PyObject* numpy_dlpack = nullptr;     // its method __dlpack__

// How tvm-ffi gets at the values of an object of another library.
struct ArraySource {
  enum { kOther, kNumpy, kExchangeApi } kind = kOther;
  const DLPackExchangeAPI* api = nullptr;
};

const DLPackExchangeAPI* ExchangeApiOf(PyObject* type) {
  PyObject* attribute = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  void* address = nullptr;
  if (attribute && PyLong_Check(attribute)) {
    address = PyLong_AsVoidPtr(attribute);
  } else if (attribute && PyCapsule_CheckExact(attribute)) {
    address = PyCapsule_GetPointer(attribute, "dlpack_exchange_api");
  }
  PyErr_Clear();
  Py_XDECREF(attribute);
  auto* api = static_cast<const DLPackExchangeAPI*>(address);
  return api && api->header.version.major == DLPACK_MAJOR_VERSION ? api : nullptr;
}

// As tvm-ffi decides it, by what the type has, and in its order.
ArraySource FindSource(PyTypeObject* type) {
  auto* object = reinterpret_cast<PyObject*>(type);
  if (PyObject_HasAttrString(object, "__tvm_ffi_object__")) return {};
  if (PyObject_HasAttrString(object, "__dlpack_c_exchange_api__")) {
    const char* skip = std::getenv("TVM_FFI_SKIP_DLPACK_C_EXCHANGE_API");
    if (skip && std::string_view(skip) == "1") return {};
    const DLPackExchangeAPI* api = ExchangeApiOf(object);
    return api ? ArraySource{ArraySource::kExchangeApi, api} : ArraySource{};
  }
  if (type == numpy_array && !PyObject_HasAttrString(object, "__cuda_stream__")) {
    return {ArraySource::kNumpy, nullptr};
  }
  return {};
}

// Once for a type, which is kept for ever: so does tvm-ffi.
ArraySource SourceOf(PyTypeObject* type) {
  static std::unordered_map<PyTypeObject*, ArraySource> sources;
  auto found = sources.find(type);
  if (__builtin_expect(found != sources.end(), true)) return found->second;
  // Looking at attributes may run Python code, and that may call functions, too.
  ArraySource source = FindSource(type);
  try {
    if (sources.emplace(type, source).second) Py_INCREF(type);
  } catch (const std::bad_alloc&) {  // found anew the next time
  }
  return source;
}

}  // namespace

bool PackedArguments::PackObject(PyObject* argument, TVMFFIAny& value) {
  PyTypeObject* type = Py_TYPE(argument);
  if (type == &PyUnicode_Type) {
    Py_ssize_t size;
    const char* text = PyUnicode_AsUTF8AndSize(argument, &size);
    if (!text) {
      PyErr_Clear();
      return false;
    }
    return Own(TVMFFIStringFromByteArray, {text, static_cast<size_t>(size)}, value);
  }
  if (type == &PyBytes_Type) {
    return Own(TVMFFIBytesFromByteArray,
               {PyBytes_AS_STRING(argument), static_cast<size_t>(PyBytes_GET_SIZE(argument))},
               value);
  }
  if (PyType_IsSubtype(type, types.object)) {
    if (PyType_IsSubtype(type, types.container) &&
        (types.exchange_api_offset == 0 || FieldAt<void*>(argument, types.exchange_api_offset))) {
      return false;  // a container from a framework, whose stream the call is to run on
    }
    TVMFFIObject* handle = HandleOf(argument);
    if (!handle) return false;  // a view of a DLTensor, or moved from
    value.type_index = handle->type_index;
    value.v_obj = handle;
    return true;
  }
  ArraySource source = SourceOf(type);
  if (source.kind == ArraySource::kNumpy) return PackNumpyArray(argument, value);
  if (source.kind == ArraySource::kExchangeApi) {
    return PackFrameworkArray(argument, source.api, value);
  }
  return false;
}

bool PackedArguments::PackNumpyArray(PyObject* array, TVMFFIAny& value) {
  PyObject* capsule = PyObject_Vectorcall(numpy_dlpack, &array, 1, nullptr);
  void* managed = capsule ? PyCapsule_GetPointer(capsule, "dltensor") : nullptr;
  TVMFFIObjectHandle tensor;
  bool made =
      managed && TVMFFITensorFromDLPack(static_cast<DLManagedTensor*>(managed), 0, 0, &tensor) == 0;
  if (made) {
    // It is the tensor's now.
    PyCapsule_SetDestructor(capsule, nullptr);
    PyCapsule_SetName(capsule, "used_dltensor");
    value.type_index = kTVMFFITensor;
    value.v_obj = static_cast<TVMFFIObject*>(tensor);
    Own(value.v_obj);
  } else {
    PyErr_Clear();
  }
  Py_XDECREF(capsule);
  return made;
}

bool PackedArguments::PackFrameworkArray(PyObject* array, const DLPackExchangeAPI* api,
                                         TVMFFIAny& value) {
  DLManagedTensorVersioned* managed = nullptr;
  if (api->managed_tensor_from_py_object_no_sync(array, &managed) != 0) {
    PyErr_Clear();
    return false;
  }
  if (!framework_.api) framework_.device_type = -1;
  framework_.api = api;
  framework_.array = array;
  DLDevice device = managed->dl_tensor.device;
  bool made = true;
  if (device.device_type != kDLCPU && framework_.device_type == -1 && api->current_work_stream) {
    framework_.stream = nullptr;
    made = api->current_work_stream(device.device_type, device.device_id, &framework_.stream) == 0;
    framework_.device_type = device.device_type;
    framework_.device_id = device.device_id;
  }
  TVMFFIObjectHandle tensor;
  made = made && TVMFFITensorFromDLPackVersioned(managed, 0, 0, &tensor) == 0;
  if (!made) {
    PyErr_Clear();
    if (managed->deleter) managed->deleter(managed);
    return false;
  }
  value.type_index = kTVMFFITensor;
  value.v_obj = static_cast<TVMFFIObject*>(tensor);
  Own(value.v_obj);
  return true;
}

bool PackedArguments::Own(int (*convert)(const TVMFFIByteArray*, TVMFFIAny*),
                          TVMFFIByteArray content, TVMFFIAny& value) {
  value.type_index = kTVMFFINone;
  if (convert(&content, &value) != 0) return false;
  if (value.type_index >= kTVMFFIStaticObjectBegin) Own(value.v_obj);
  return true;
}

bool InitArguments() {
  PyObject* core = PyImport_ImportModule("tvm_ffi.core");
  if (!core) return false;
  auto get = [&](const char* name) {
    return reinterpret_cast<PyTypeObject*>(PyObject_GetAttrString(core, name));
  };
  types.object = get("CObject");
  types.container = types.object ? get("CContainerBase") : nullptr;
  types.function = types.container ? get("Function") : nullptr;
  Py_DECREF(core);
  if (!types.function) return false;
  if (types.container->tp_base == types.object &&
      types.container->tp_basicsize ==
          types.object->tp_basicsize + static_cast<Py_ssize_t>(sizeof(void*))) {
    types.exchange_api_offset = types.object->tp_basicsize;
  }

  // tvm-ffi has imported NumPy where it is installed.
  PyObject* name = PyUnicode_FromString("numpy");
  PyObject* numpy = name ? PyImport_GetModule(name) : nullptr;
  PyObject* array = numpy ? PyObject_GetAttrString(numpy, "ndarray") : nullptr;
  numpy_dlpack = array ? PyObject_GetAttrString(array, "__dlpack__") : nullptr;
  if (numpy_dlpack && PyType_Check(array)) {
    numpy_array = reinterpret_cast<PyTypeObject*>(Py_NewRef(array));
  }
  PyErr_Clear();
  Py_XDECREF(array);
  Py_XDECREF(numpy);
  Py_XDECREF(name);
  return true;
}

}  // namespace object_loader
