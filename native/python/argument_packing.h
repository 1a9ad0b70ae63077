// SPDX-License-Identifier: Apache-2.0
//
// The arguments of a call from Python in tvm-ffi's form, for the types whose form is known here.
//
// These are exact int, float, bool, None, str and bytes, tvm-ffi's own objects, NumPy's arrays, and
// arrays of frameworks that have DLPack's C exchange API (PyTorch's tensors). All others are left
// to tvm_ffi.Function, and so is an argument that its own type refuses: it does the same again, and
// reports the error.
//
// Lifetime: what was packed is valid while the object and the arguments live. Everything in this
// file needs the GIL, or in a free-threaded Python a thread attached to it.
#ifndef OBJECT_LOADER_PYTHON_ARGUMENT_PACKING_H_
#define OBJECT_LOADER_PYTHON_ARGUMENT_PACKING_H_

#include <Python.h>
#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

#include <cstdint>

namespace object_loader {

// The framework that a call's arrays are from, as tvm-ffi tells it.
struct Framework {
  const DLPackExchangeAPI* api = nullptr;  // null: there is none
  PyObject* array;                         // one of the arguments
  int32_t device_type;                     // of the first array that is not in main memory, or -1
  int32_t device_id;
  void* stream;  // that the framework works on there
};

class PackedArguments {
 public:
  static constexpr Py_ssize_t kMost = 16;

  PackedArguments() = default;
  ~PackedArguments() {
    for (int i = 0; i < owned_count_; ++i) TVMFFIObjectDecRef(owned_[i]);
  }
  PackedArguments(const PackedArguments&) = delete;
  PackedArguments& operator=(const PackedArguments&) = delete;

  // Returns false, without a Python error, where tvm_ffi.Function has to do it.
  bool Pack(PyObject* const* arguments, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; ++i) {
      PyObject* argument = arguments[i];
      PyTypeObject* type = Py_TYPE(argument);
      TVMFFIAny& value = values_[i];
      value.zero_padding = 0;
      if (type == &PyLong_Type) {
        value.type_index = kTVMFFIInt;
        if (__builtin_expect(!GetInt(argument, value.v_int64), false)) return false;
      } else if (type == &PyFloat_Type) {
        value.type_index = kTVMFFIFloat;
        value.v_float64 = PyFloat_AS_DOUBLE(argument);
      } else if (type == &PyBool_Type) {
        value.type_index = kTVMFFIBool;
        value.v_int64 = argument == Py_True;
      } else if (argument == Py_None) {
        value.type_index = kTVMFFINone;
        value.v_int64 = 0;
      } else if (!PackObject(argument, value)) {
        return false;
      }
    }
    return true;
  }

  const TVMFFIAny* values() const { return values_; }
  const Framework& framework() const { return framework_; }

 private:
  static bool GetInt(PyObject* number, int64_t& value) {
#if PY_VERSION_HEX >= 0x030C0000
    auto* digits = reinterpret_cast<PyLongObject*>(number);
    if (PyUnstable_Long_IsCompact(digits)) {
      value = PyUnstable_Long_CompactValue(digits);
      return true;
    }
#elif PY_VERSION_HEX >= 0x030B0000
    Py_ssize_t size = Py_SIZE(number);  // negative for a negative number
    if (size >= -1 && size <= 1) {
      value = size * static_cast<int64_t>(reinterpret_cast<PyLongObject*>(number)->ob_digit[0]);
      return true;
    }
#endif
    int overflow;
    value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return overflow == 0;
  }

  bool PackObject(PyObject* argument, TVMFFIAny& value);
  bool PackNumpyArray(PyObject* array, TVMFFIAny& value);
  bool PackFrameworkArray(PyObject* array, const DLPackExchangeAPI* api, TVMFFIAny& value);
  bool Own(int (*convert)(const TVMFFIByteArray*, TVMFFIAny*), TVMFFIByteArray content,
           TVMFFIAny& value);
  void Own(TVMFFIObject* object) { owned_[owned_count_++] = object; }

  TVMFFIAny values_[kMost];
  TVMFFIObject* owned_[kMost];
  int owned_count_ = 0;
  Framework framework_;
};

// Prepares the above; returns false with a Python error set.
bool InitArguments();

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_ARGUMENT_PACKING_H_
