// SPDX-License-Identifier: Apache-2.0
#include "function.h"

#include <cxxabi.h>
#include <structmember.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "interpreter_lock.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

// tvm-ffi makes its Python objects in one place only: where a call returns. So these are functions
// to call through tvm_ffi.Function; one returns what was left in `handed_over`, the other one fails
// with the error that was left in tvm-ffi.
PyObject* return_value = nullptr;
PyObject* raise_error = nullptr;
thread_local TVMFFIAny handed_over = {};
thread_local int failed_with = -1;

int ReturnValue(void*, const TVMFFIAny*, int32_t, TVMFFIAny* result) {
  *result = std::exchange(handed_over, {});
  return 0;
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

// tvm-ffi's Python types. The offsets are of fields that their own code reads on every call; they
// are found by experiment (see FindFields), and the fast call is not used where that fails.
struct {
  PyTypeObject* object = nullptr;
  PyTypeObject* container = nullptr;
  PyTypeObject* function = nullptr;
  Py_ssize_t handle_offset = 0;        // of the void* that is the object
  Py_ssize_t exchange_api_offset = 0;  // of a container's only field: its framework's API, or null
  Py_ssize_t release_gil_offset = 0;   // of the int that says whether calls release the GIL
} types;

PyTypeObject* fast_function_type = nullptr;  // null: not available
Py_ssize_t vectorcall_offset = 0;

template <typename T>
T& FieldAt(PyObject* object, Py_ssize_t offset) {
  return *reinterpret_cast<T*>(reinterpret_cast<char*>(object) + offset);
}

TVMFFIObject* HandleOf(PyObject* object) {
  return FieldAt<TVMFFIObject*>(object, types.handle_offset);
}

// Arguments in tvm-ffi's form, and the references that this took.
class PackedArguments {
 public:
  static constexpr Py_ssize_t kMost = 16;

  ~PackedArguments() {
    for (int i = 0; i < owned_count_; ++i) TVMFFIObjectDecRef(owned_[i]);
  }

  // Returns false where tvm_ffi.Function has to do it.
  bool Pack(PyObject* const* arguments, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; ++i) {
      if (!PackOne(arguments[i], values_[i])) return false;
    }
    return true;
  }

  const TVMFFIAny* values() const { return values_; }

 private:
  bool PackOne(PyObject* argument, TVMFFIAny& value) {
    PyTypeObject* type = Py_TYPE(argument);
    value.zero_padding = 0;
    if (type == &PyLong_Type) {
      int overflow;
      value.type_index = kTVMFFIInt;
      value.v_int64 = PyLong_AsLongLongAndOverflow(argument, &overflow);
      return overflow == 0;
    }
    if (type == &PyFloat_Type) {
      value.type_index = kTVMFFIFloat;
      value.v_float64 = PyFloat_AS_DOUBLE(argument);
      return true;
    }
    if (type == &PyBool_Type) {
      value.type_index = kTVMFFIBool;
      value.v_int64 = argument == Py_True;
      return true;
    }
    if (argument == Py_None) {
      value.type_index = kTVMFFINone;
      value.v_int64 = 0;
      return true;
    }
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
    if (!PyType_IsSubtype(type, types.object)) return false;
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

  bool Own(int (*convert)(const TVMFFIByteArray*, TVMFFIAny*), TVMFFIByteArray content,
           TVMFFIAny& value) {
    value.type_index = kTVMFFINone;
    if (convert(&content, &value) != 0) return false;
    if (value.type_index >= kTVMFFIStaticObjectBegin) owned_[owned_count_++] = value.v_obj;
    return true;
  }

  TVMFFIAny values_[kMost];
  TVMFFIObject* owned_[kMost];
  int owned_count_ = 0;
};

PyObject* CallBase(PyObject* self, PyObject* const* arguments, Py_ssize_t count,
                   PyObject* keywords) {
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

PyObject* Call(PyObject* self, PyObject* const* arguments, size_t flags, PyObject* keywords) {
  Py_ssize_t count = PyVectorcall_NARGS(flags);
  PackedArguments packed;
  TVMFFIObject* handle = HandleOf(self);
  // The handle can have been moved away, or another function's moved here.
  if (keywords || count > PackedArguments::kMost || !ExportedFunctionObj::IsInstance(handle) ||
      !packed.Pack(arguments, count)) {
    return CallBase(self, arguments, count, keywords);
  }
  TVMFFIAny result;
  result.type_index = kTVMFFINone;
  result.zero_padding = 0;
  result.v_int64 = 0;
  int code;
  auto* function = ExportedFunctionObj::From(handle);
  if (FieldAt<int>(self, types.release_gil_offset)) {
    PyThreadState* state = PyEval_SaveThread();
    code = function->Call(packed.values(), static_cast<int32_t>(count), &result);
    ReenterInterpreter(state);
  } else {
    code = function->Call(packed.values(), static_cast<int32_t>(count), &result);
  }
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
      return Return(result);
  }
}

PyObject* NewFastFunction(PyObject* function) {
  PyObject* no_arguments = PyTuple_New(0);
  if (!no_arguments) return nullptr;
  PyObject* fast = fast_function_type->tp_new(fast_function_type, no_arguments, nullptr);
  Py_DECREF(no_arguments);
  if (!fast) return nullptr;
  FieldAt<vectorcallfunc>(fast, vectorcall_offset) = Call;
  PyObject* moved = PyObject_CallMethod(fast, "__move_handle_from__", "O", function);
  if (!moved) Py_CLEAR(fast);
  Py_XDECREF(moved);
  return fast;
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

bool GetTypes() {
  PyObject* core = PyImport_ImportModule("tvm_ffi.core");
  if (!core) return false;
  auto get = [&](const char* name) {
    return reinterpret_cast<PyTypeObject*>(PyObject_GetAttrString(core, name));
  };
  types.object = get("CObject");
  types.container = types.object ? get("CContainerBase") : nullptr;
  types.function = types.container ? get("Function") : nullptr;
  if (types.function && types.container->tp_base == types.object &&
      types.container->tp_basicsize ==
          types.object->tp_basicsize + static_cast<Py_ssize_t>(sizeof(void*))) {
    types.exchange_api_offset = types.object->tp_basicsize;
  }
  Py_DECREF(core);
  return types.function != nullptr;
}

}  // namespace

PyObject* ToPython(ffi::ObjectRef object) {
  TVMFFIAny value = {};
  value.v_obj = ffi::detail::ObjectUnsafe::MoveObjectRefToTVMFFIObjectPtr(std::move(object));
  value.type_index = value.v_obj->type_index;
  return Return(value);
}

PyObject* FunctionToPython(ffi::Function function) {
  PyObject* plain = ToPython(std::move(function));
  if (!plain || !fast_function_type || Py_TYPE(plain) == fast_function_type) return plain;
  PyObject* fast = NewFastFunction(plain);
  Py_DECREF(plain);
  return fast;
}

void SetPythonError(const ffi::Error& error) {
  ffi::detail::SetSafeCallRaised(error);
  Py_XDECREF(Raise(-1));
}

bool InitFunctions() {
  SetInterpreterLock(LeaveInterpreter, ReenterInterpreter);
  WatchObjectRegistration();
  WatchImportLookups();
  if (!GetTypes()) return false;
  return_value = FromExternC(ReturnValue);
  raise_error = FromExternC(RaiseError);
  if (!return_value || !raise_error || !FindFields(raise_error)) return false;
  // They pass on what was left for them; nothing may run in between, and nothing takes time.
  for (PyObject* function : {return_value, raise_error}) {
    if (PyObject_SetAttrString(function, "release_gil", Py_False) != 0) return false;
  }
  return MakeFastFunctionType();
}

}  // namespace object_loader
