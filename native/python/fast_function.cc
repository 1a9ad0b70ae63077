// SPDX-License-Identifier: Apache-2.0
#include "python/fast_function.h"

#include <cxxabi.h>
#include <structmember.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <unistd.h>

#include <utility>

#include "base/interpreter_lock.h"
#include "python/argument_packing.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

// tvm-ffi makes its Python objects in one place only: where a call returns. So these are functions
// to call through tvm_ffi.Function: the first one returns what was left in `handed_over`, the
// second one its second argument, and the third one fails with the error that was left in tvm-ffi.
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

PyObject* Return(TVMFFIAny value) {
  handed_over = value;
  return PyObject_CallNoArgs(return_value);
}

PyObject* Raise(int code) {
  failed_with = code;
  return PyObject_CallNoArgs(raise_error);
}

// Whether or not this thread has the GIL now: what is dropped last may be dropped anywhere.
void* LeaveInterpreter() {
  return Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr;
}

// A thread that takes the GIL again when the interpreter has come to its end stays there: Python
// before 3.14 ends such a thread, which C++ code in the middle of something does not survive.
void ReenterInterpreter(void* state) {
  if (!state) return;
  try {
    PyEval_RestoreThread(static_cast<PyThreadState*>(state));
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

PyObject* move_handle = nullptr;             // the name of a method
PyTypeObject* fast_function_type = nullptr;  // null: not available
Py_ssize_t vectorcall_offset = 0;

// Out of the way: its variables would take the registers of what is fast.
__attribute__((noinline, cold)) PyObject* CallBase(PyObject* self, PyObject* const* arguments,
                                                   Py_ssize_t count, PyObject* keywords) {
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

inline int Run(PyObject* self, const ExportedFunctionObj& function, const TVMFFIAny* arguments,
               int32_t count, TVMFFIAny* result) {
  if (!FieldAt<int>(self, types.release_gil_offset)) return function.Call(arguments, count, result);
  PyThreadState* state = PyEval_SaveThread();
  int code = function.Call(arguments, count, result);
  ReenterInterpreter(state);
  return code;
}

// The same on the stream that the framework works on, and with its allocator.
int RunWithFramework(PyObject* self, const ExportedFunctionObj& function,
                     const PackedArguments& packed, int32_t count, TVMFFIAny* result) {
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
    PyObject* object = Return(value);
    if (!object || !PyType_IsSubtype(Py_TYPE(object), types.container)) return object;
    // tvm-ffi tells the framework by the other argument.
    PyObject* arguments[] = {framework.array, object};
    PyObject* result = PyObject_Vectorcall(return_second, arguments, 2, nullptr);
    Py_DECREF(object);
    return result;
  }
  auto convert = framework.api->managed_tensor_to_py_object_no_sync;
  DLManagedTensorVersioned* managed;
  if (!convert || TVMFFITensorToDLPackVersioned(value.v_obj, &managed) != 0) return Return(value);
  void* array;
  if (convert(managed, &array) != 0) {
    PyErr_Clear();
    if (managed->deleter) managed->deleter(managed);
    return Return(value);
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
  if (__builtin_expect(code != 0, false)) return Raise(code);
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
                 : Return(result);
  }
}

// An instance of `type`, which takes the handle of `plain`, an instance of a base of it, over; or
// `plain`, if there are other references to it than the caller's.
PyObject* Replace(PyObject* plain, PyTypeObject* type) {
  if (Py_REFCNT(plain) != 1) return Py_NewRef(plain);
  PyObject* no_arguments = PyTuple_New(0);
  if (!no_arguments) return nullptr;
  PyObject* instance = type->tp_new(type, no_arguments, nullptr);
  Py_DECREF(no_arguments);
  if (!instance) return nullptr;
  if (type == fast_function_type) FieldAt<vectorcallfunc>(instance, vectorcall_offset) = Call;
  PyObject* moved = PyObject_CallMethodOneArg(instance, move_handle, plain);
  if (!moved) Py_CLEAR(instance);
  Py_XDECREF(moved);
  return instance;
}

// Finds the fields of tvm_ffi.Function that the fast call reads: the word that is the value of
// __chandle__(), and the int that follows the property release_gil. Where there is not exactly one
// of each the offsets stay 0.
bool FindFields(PyObject* function) {
  Py_ssize_t size = types.function->tp_basicsize;
  PyObject* handle = PyObject_CallMethod(function, "__chandle__", nullptr);
  if (!handle) return false;
  unsigned long long expected = PyLong_AsUnsignedLongLong(handle);
  Py_DECREF(handle);
  int found = 0;
  for (Py_ssize_t at = sizeof(PyObject); at + Py_ssize_t{8} <= size; at += 8) {
    if (FieldAt<unsigned long long>(function, at) != expected) continue;
    types.handle_offset = at;
    ++found;
  }
  if (found != 1) types.handle_offset = 0;

  found = 0;
  PyObject* before = PyObject_GetAttrString(function, "release_gil");
  if (!before) return false;
  for (Py_ssize_t at = sizeof(PyObject); at + Py_ssize_t{sizeof(int)} <= size; at += sizeof(int)) {
    bool follows = true;
    for (int value : {1, 0, 1}) {
      if (PyObject_SetAttrString(function, "release_gil", value ? Py_True : Py_False) != 0) {
        Py_DECREF(before);
        return false;
      }
      follows = follows && FieldAt<int>(function, at) == value;
    }
    if (!follows) continue;
    types.release_gil_offset = at;
    ++found;
  }
  if (found != 1) types.release_gil_offset = 0;
  int restored = PyObject_SetAttrString(function, "release_gil", before);
  Py_DECREF(before);
  return restored == 0;
}

bool MakeFastFunctionType() {
#ifdef Py_GIL_DISABLED
  // The fast call keeps a table of types, and reads objects, that the GIL guards. Without one all
  // functions are tvm_ffi.Function's own.
  return true;
#endif
  if (types.handle_offset == 0 || types.release_gil_offset == 0) return true;
  vectorcall_offset = types.function->tp_basicsize;
  PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, vectorcall_offset, READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  PyType_Slot slots[] = {
      {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
      {Py_tp_members, members},
      {Py_tp_doc, const_cast<char*>("A function of loaded code: a tvm_ffi.Function that is called "
                                    "without a detour.")},
      {0, nullptr}};
  PyType_Spec spec = {"tvm_ffi_object_loader._native.Function",
                      static_cast<int>(vectorcall_offset + sizeof(vectorcallfunc)), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, slots};
  PyObject* bases = PyTuple_Pack(1, types.function);
  if (!bases) return false;
  fast_function_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpecWithBases(&spec, bases));
  Py_DECREF(bases);
  return fast_function_type != nullptr;
}

// A tvm_ffi.Function over a C function.
PyObject* FromExternC(TVMFFISafeCallType function) {
  return PyObject_CallMethod(reinterpret_cast<PyObject*>(types.function), "__from_extern_c__", "K",
                             reinterpret_cast<unsigned long long>(function));
}

}  // namespace

PyObject* ToPython(ffi::ObjectRef object) {
  TVMFFIAny value = {};
  value.v_obj = ffi::detail::ObjectUnsafe::MoveObjectRefToTVMFFIObjectPtr(std::move(object));
  value.type_index = value.v_obj->type_index;
  return Return(value);
}

PyObject* FastFunction(PyObject* function) {
  bool ours = fast_function_type && Py_TYPE(function) == types.function &&
              ExportedFunctionObj::IsInstance(HandleOf(function));
  return ours ? Replace(function, fast_function_type) : Py_NewRef(function);
}

PyObject* FunctionToPython(ffi::Function function) {
  PyObject* plain = ToPython(std::move(function));
  if (!plain) return nullptr;
  PyObject* fast = FastFunction(plain);
  Py_DECREF(plain);
  return fast;
}

PyObject* ModuleToPython(ffi::Module module, PyObject* class_of) {
  PyObject* plain = ToPython(std::move(module));
  // Somebody may have it already, also as one that was made here.
  if (!plain || !fast_function_type || Py_REFCNT(plain) != 1) return plain;
  PyObject* type = PyObject_CallOneArg(class_of, reinterpret_cast<PyObject*>(Py_TYPE(plain)));
  PyObject* instance = type ? Replace(plain, reinterpret_cast<PyTypeObject*>(type)) : nullptr;
  Py_XDECREF(type);
  Py_DECREF(plain);
  return instance;
}

void SetPythonError(const ffi::Error& error) {
  ffi::detail::SetSafeCallRaised(error);
  Py_XDECREF(Raise(-1));
}

bool InitFunctions() {
  SetInterpreterLock(LeaveInterpreter, ReenterInterpreter);
  WatchObjectRegistration();
  WatchImportLookups();
  if (!InitArguments()) return false;
  return_value = FromExternC(ReturnValue);
  return_second = FromExternC(ReturnSecond);
  raise_error = FromExternC(RaiseError);
  move_handle = PyUnicode_InternFromString("__move_handle_from__");
  if (!return_value || !return_second || !raise_error || !move_handle) return false;
  if (!FindFields(raise_error)) return false;
  // They pass on what was left for them; nothing may run in between, and nothing takes time.
  for (PyObject* function : {return_value, raise_error}) {
    if (PyObject_SetAttrString(function, "release_gil", Py_False) != 0) return false;
  }
  return MakeFastFunctionType();
}

}  // namespace object_loader
