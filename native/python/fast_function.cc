// SPDX-License-Identifier: Apache-2.0
#include "python/fast_function.h"

#include <structmember.h>
#include <tvm/ffi/extra/c_env_api.h>

#include <cstddef>
#include <functional>
#include <string>
#include <utility>

#include "ffi/registration.h"
#include "python/argument_packing.h"
#include "python/core_types.h"
#include "python/function_attributes.h"
#include "python/interpreter.h"
#include "python/results.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

PyTypeObject* fast_function_type = nullptr;  // null: not available
Py_ssize_t vectorcall_offset = 0;
Py_ssize_t base_vectorcall_offset = 0;  // of tvm_ffi.Function's own; 0: it has none

// Out of the way: its variables would take the registers of what is fast.
__attribute__((noinline, cold)) PyObject* CallBase(PyObject* self, PyObject* const* arguments,
                                                   Py_ssize_t count, PyObject* keywords) {
  if (keywords && ExportedFunctionObj::IsInstance(HandleOf(self))) {
    PyObject* result = CallWithKeywords(self, arguments, count, keywords);
    if (result || PyErr_Occurred()) return result;
  }
  if (base_vectorcall_offset != 0) {
    auto call = FieldAt<vectorcallfunc>(self, base_vectorcall_offset);
    return call(self, arguments, static_cast<size_t>(count), keywords);
  }
  PyObject* positional = PyTuple_New(count);
  PyObject* named = keywords ? PyDict_New() : nullptr;
  PyObject* result = nullptr;
  bool ready = positional && (!keywords || named);
  for (Py_ssize_t i = 0; ready && i < count; ++i) {
    PyTuple_SET_ITEM(positional, i, Py_NewRef(arguments[i]));
  }
  for (Py_ssize_t i = 0; ready && keywords && i < PyTuple_GET_SIZE(keywords); ++i) {
    ready = PyDict_SetItem(named, PyTuple_GET_ITEM(keywords, i), arguments[count + i]) == 0;
  }
  if (ready) result = types.function->tp_call(self, positional, named);
  Py_XDECREF(positional);
  Py_XDECREF(named);
  return result;
}

[[gnu::always_inline]] inline int Run(PyObject* self, const ExportedFunctionObj& function,
                                      const TVMFFIAny* arguments, int32_t count,
                                      TVMFFIAny* result) {
  bool leaves = ReadField<int>(self, types.release_gil_offset) != 0;
  PyThreadState* state = leaves ? PyEval_SaveThread() : nullptr;
  int code = function.Call(arguments, count, result);
  if (leaves) ReenterInterpreter(state);
  return code;
}

// The same on the stream that the framework works on, and with its allocator.
__attribute__((noinline)) int RunWithFramework(PyObject* self, const ExportedFunctionObj& function,
                                               const PackedArguments& packed, int32_t count,
                                               TVMFFIAny* result) {
  const Framework& framework = packed.framework();
  bool has_stream = framework.device_type != -1;
  TVMFFIStreamHandle stream = nullptr;
  if (has_stream) {
    int code =
        TVMFFIEnvSetStream(framework.device_type, framework.device_id, framework.stream, &stream);
    if (code != 0) return code;
  }
  DLPackManagedTensorAllocator own_allocator = framework.api->managed_tensor_allocator;
  DLPackManagedTensorAllocator allocator = nullptr;
  if (own_allocator) {
    int code = TVMFFIEnvSetDLPackManagedTensorAllocator(own_allocator, 0, &allocator);
    if (code != 0) {
      if (has_stream) {
        TVMFFIEnvSetStream(framework.device_type, framework.device_id, stream, nullptr);
      }
      return code;
    }
  }
  int code = Run(self, function, packed.values(), count, result);
  // Setting back what was there does not fail.
  if (has_stream && stream != framework.stream) {
    TVMFFIEnvSetStream(framework.device_type, framework.device_id, stream, nullptr);
  }
  if (allocator != own_allocator) {
    TVMFFIEnvSetDLPackManagedTensorAllocator(allocator, 0, nullptr);
  }
  return code;
}

// An object that a call with arrays of a framework returned. A tensor becomes the framework's, and
// a container gives out such ones.
PyObject* ReturnToFramework(TVMFFIAny value, const Framework& framework) {
  if (value.type_index != kTVMFFITensor) {
    PyObject* object = ToPython(value);
    if (!object || !PyType_IsSubtype(Py_TYPE(object), types.container)) return object;
    PyObject* result = ToFramework(object, framework.array);
    Py_DECREF(object);
    return result;
  }
  auto convert = framework.api->managed_tensor_to_py_object_no_sync;
  DLManagedTensorVersioned* managed;
  if (!convert || TVMFFITensorToDLPackVersioned(value.v_obj, &managed) != 0) return ToPython(value);
  void* array;
  if (convert(managed, &array) != 0) {
    PyErr_Clear();
    if (managed->deleter) managed->deleter(managed);
    return ToPython(value);
  }
  TVMFFIObjectDecRef(value.v_obj);
  return static_cast<PyObject*>(array);
}

PyObject* Call(PyObject* self, PyObject* const* arguments, size_t flags, PyObject* keywords) {
  Py_ssize_t count = PyVectorcall_NARGS(flags);
  TVMFFIObject* handle = HandleOf(self);
  // The handle can have been moved away, or another function's moved here.
  if (__builtin_expect(
          keywords || count > PackedArguments::kMost || !ExportedFunctionObj::IsInstance(handle),
          false)) {
    return CallBase(self, arguments, count, keywords);
  }
  PackedArguments packed;
  if (!packed.Pack(arguments, count)) return CallBase(self, arguments, count, nullptr);
  TVMFFIAny result;
  result.type_index = kTVMFFINone;
  result.zero_padding = 0;
  result.v_int64 = 0;
  const auto& function = *ExportedFunctionObj::From(handle);
  auto number = static_cast<int32_t>(count);
  bool in_framework = __builtin_expect(packed.framework().api != nullptr, false);
  int code = in_framework ? RunWithFramework(self, function, packed, number, &result)
                          : Run(self, function, packed.values(), number, &result);
  if (__builtin_expect(code != 0, false)) return RaiseFailure(code);
  switch (result.type_index) {
    case kTVMFFINone:
      Py_RETURN_NONE;
    case kTVMFFIInt:
      return PyLong_FromLongLong(result.v_int64);
    case kTVMFFIBool:
      return PyBool_FromLong(result.v_int64 != 0);
    case kTVMFFIFloat:
      return PyFloat_FromDouble(result.v_float64);
    default:
      return in_framework && result.type_index >= kTVMFFIStaticObjectBegin
                 ? ReturnToFramework(result, packed.framework())
                 : ToPython(result);
  }
}

// Gives the handle of `plain` to `instance`. False with a Python error set.
bool MoveHandle(PyObject* instance, PyObject* plain) {
#ifdef Py_GIL_DISABLED
  // Another thread may be about to find `plain` by its handle, so it keeps that.
  TVMFFIObject* handle = HandleOf(plain);
  TVMFFIObjectIncRef(handle);
  FieldAt<TVMFFIObject*>(instance, types.handle_offset) = handle;
  return true;
#else
  PyObject* moved = PyObject_CallMethodOneArg(instance, types.move_handle, plain);
  Py_XDECREF(moved);
  return moved != nullptr;
#endif
}

// Gives the handle of `plain`, which nobody else has, to an instance of the type of fast functions;
// takes the reference over.
PyObject* Replace(PyObject* plain) {
  PyObject* no_arguments = PyTuple_New(0);
  PyObject* instance = no_arguments
                           ? fast_function_type->tp_new(fast_function_type, no_arguments, nullptr)
                           : nullptr;
  Py_XDECREF(no_arguments);
  if (instance) {
    FieldAt<vectorcallfunc>(instance, vectorcall_offset) = Call;
    if (base_vectorcall_offset != 0) {
      FieldAt<vectorcallfunc>(instance, base_vectorcall_offset) =
          FieldAt<vectorcallfunc>(plain, base_vectorcall_offset);
    }
    if (!MoveHandle(instance, plain)) Py_CLEAR(instance);
  }
  Py_DECREF(plain);
  return instance;
}

// What an instance stands for, or null.
const ExportedFunctionObj* Exported(PyObject* instance) {
  TVMFFIObject* handle = HandleOf(instance);
  return ExportedFunctionObj::IsInstance(handle) ? ExportedFunctionObj::From(handle) : nullptr;
}

// Each look-up makes another function: equal are those of one module with one name.
PyObject* Compare(PyObject* self, PyObject* other, int operation) {
  if ((operation == Py_EQ || operation == Py_NE) && Py_TYPE(other) == fast_function_type) {
    const ExportedFunctionObj* a = Exported(self);
    const ExportedFunctionObj* b = Exported(other);
    if (a && b) {
      bool equal = a->module().get() == b->module().get() && a->name() == b->name();
      return PyBool_FromLong(equal == (operation == Py_EQ));
    }
  }
  return types.function->tp_richcompare(self, other, operation);
}

Py_hash_t Hash(PyObject* self) {
  const ExportedFunctionObj* function = Exported(self);
  if (!function) return types.function->tp_hash(self);
  size_t hash = std::hash<std::string>()(function->name()) ^
                std::hash<const void*>()(function->module().get());
  auto result = static_cast<Py_hash_t>(hash);
  return result == -1 ? -2 : result;
}

bool MakeFastFunctionType() {
  if (!types.serve_fast_call()) return true;
  vectorcall_offset = types.function->tp_basicsize;
  if (PyType_HasFeature(types.function, Py_TPFLAGS_HAVE_VECTORCALL)) {
    base_vectorcall_offset = types.function->tp_vectorcall_offset;
  }
  PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, vectorcall_offset, READONLY, nullptr},
      // What is known of the function, when that was asked for.
      {"_known", T_OBJECT_EX, vectorcall_offset + static_cast<Py_ssize_t>(sizeof(vectorcallfunc)),
       0, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                         {Py_tp_members, members},
                         {Py_tp_getset, function_attributes},
                         {Py_tp_methods, function_methods},
                         {Py_tp_richcompare, reinterpret_cast<void*>(Compare)},
                         {Py_tp_hash, reinterpret_cast<void*>(Hash)},
                         {Py_tp_repr, reinterpret_cast<void*>(FunctionRepr)},
                         {0, nullptr}};
  PyType_Spec spec = {
      "tvm_ffi_object_loader._native.Function",
      static_cast<int>(vectorcall_offset + sizeof(vectorcallfunc) + sizeof(PyObject*)), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, slots};
  PyObject* bases = PyTuple_Pack(1, types.function);
  if (!bases) return false;
  fast_function_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpecWithBases(&spec, bases));
  Py_DECREF(bases);
  return fast_function_type != nullptr &&
         SetTypeDoc(fast_function_type,
                    "A function of loaded code: a tvm_ffi.Function that is called without a "
                    "detour, and says what it is.");
}

// Whether it is a function of one of our modules as tvm-ffi has made it.
bool CanBeFast(PyObject* function) {
  return fast_function_type && Py_TYPE(function) == types.function &&
         ExportedFunctionObj::IsInstance(HandleOf(function));
}

}  // namespace

PyObject* FunctionToPython(ffi::Function function) {
  PyObject* plain = ToPython(std::move(function));
  // The reference was counted when the call returned it, so the count tells who has the function.
  return plain && CanBeFast(plain) && Py_REFCNT(plain) == 1 ? Replace(plain) : plain;
}

PyObject* FastFunction(PyObject* argument) {
#if PY_VERSION_HEX >= 0x030E0000
  // Arguments may be lent, uncounted, by a variable of the caller's.
  bool has_no_other = PyUnstable_Object_IsUniqueReferencedTemporary(argument) != 0;
#else
  bool has_no_other = Py_REFCNT(argument) == 1;
#endif
  Py_INCREF(argument);
  return has_no_other && CanBeFast(argument) ? Replace(argument) : argument;
}

const ExportedFunctionObj* ExportedFunction(PyObject* function) {
  bool is_function = PyType_IsSubtype(Py_TYPE(function), types.function) != 0;
  return types.handle_offset != 0 && is_function ? Exported(function) : nullptr;
}

bool InitFunctions() {
  SetInterpreter();
  WatchRegistration();
  return InitResults() && FindCoreTypes(SomeFunction()) && InitArguments() &&
         MakeFastFunctionType();
}

}  // namespace object_loader
