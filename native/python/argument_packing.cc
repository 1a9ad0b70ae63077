// SPDX-License-Identifier: Apache-2.0
#include "python/argument_packing.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string_view>

#include "python/core_types.h"

namespace object_loader {

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

// Whether an object of tvm-ffi may be a container that a framework has made.
bool MayBeFromFramework(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  if (!types.container) return !PyType_IsSubtype(type, types.function);
  return PyType_IsSubtype(type, types.container) &&
         (types.exchange_api_offset == 0 || ReadField<void*>(object, types.exchange_api_offset));
}

// What was found for types, which threads look at without a lock: entries are added, never changed
// and never removed. So their types are kept for ever, and so does tvm-ffi keep them.
class KnownSources {
 public:
  const ArraySource* Find(const PyTypeObject* type) const {
    const Entry* entry = chains_[ChainOf(type)].load(std::memory_order_acquire);
    while (entry && entry->type != type) entry = entry->next;
    return entry ? &entry->source : nullptr;
  }

  void Add(PyTypeObject* type, ArraySource source) {
    auto* entry = new (std::nothrow) Entry{type, source, nullptr};
    if (!entry) return;  // found anew the next time
    std::atomic<Entry*>& first = chains_[ChainOf(type)];
    do {
      entry->next = first.load(std::memory_order_acquire);
      if (Find(type)) {  // another thread was faster
        delete entry;
        return;
      }
    } while (!first.compare_exchange_weak(entry->next, entry, std::memory_order_acq_rel));
    Py_INCREF(type);
  }

 private:
  struct Entry {
    PyTypeObject* type;
    ArraySource source;
    Entry* next;
  };

  static constexpr size_t kChains = 256;

  static size_t ChainOf(const PyTypeObject* type) {
    auto address = reinterpret_cast<uintptr_t>(type);
    return (address >> 4 ^ address >> 12) % kChains;
  }

  std::atomic<Entry*> chains_[kChains] = {};
};

KnownSources known_sources;

__attribute__((noinline, cold)) ArraySource FindAndKeepSource(PyTypeObject* type) {
  // Looking at attributes may run Python code, and that may call functions, too, or take the type
  // from its object.
  Py_INCREF(type);
  ArraySource source = FindSource(type);
  known_sources.Add(type, source);
  Py_DECREF(type);
  return source;
}

ArraySource SourceOf(PyTypeObject* type) {
  const ArraySource* known = known_sources.Find(type);
  return __builtin_expect(known != nullptr, true) ? *known : FindAndKeepSource(type);
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
  if (!types.object) return false;  // it may be tvm-ffi's
  if (PyType_IsSubtype(type, types.object)) {
    if (MayBeFromFramework(argument)) return false;  // on whose stream the call is to run
    TVMFFIObject* handle = HandleOf(argument);
    if (!handle) return false;  // a view of a DLTensor, or moved from
    value.type_index = handle->type_index;
    value.v_obj = handle;
    return true;
  }
  ArraySource source = SourceOf(type);
  if (source.kind == ArraySource::kNumpy) return PackNumpyArray(argument, value);
  if (source.kind == ArraySource::kExchangeApi && types.container) {
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
