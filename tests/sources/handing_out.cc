// SPDX-License-Identifier: Apache-2.0
// Hands out objects of its own by other ways than as results: what it is given is a list, a map, an
// object with fields, a function.
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/reflection/accessor.h>
#include <tvm/ffi/reflection/creator.h>
#include <tvm/ffi/rvalue_ref.h>

#include <stdexcept>
#include <thread>
#include <vector>

#include "objects.cc"

namespace handing_out {

using ffi::Any;
using ffi::Dict;
using ffi::Function;
using ffi::List;

void Append(List<Any> list, int64_t n) { list.push_back(Text(n)); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append, Append);

void Extend(List<Any> list, int64_t count) {
  for (int64_t i = 0; i < count; ++i) list.push_back(Texts(i));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(extend, Extend);

void Set(Dict<Any, Any> dict, Any key, int64_t n) { dict.Set(key, Text(n)); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(set, Set);

void Fill(Dict<Any, Any> dict, int64_t count) {
  for (int64_t i = 0; i < count; ++i) dict.Set(i, i);
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fill, Fill);

void AppendNested(ffi::Map<Any, ffi::Array<List<Any>>> map, int64_t n) {
  for (const auto& [key, lists] : map) {
    for (List<Any> list : lists) list.push_back(Adder(n));
  }
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_nested, AppendNested);

// Of the class that the field belongs to, which the object's may inherit from.
void SetField(ffi::ObjectRef object, ffi::String class_key, ffi::String name, int64_t n) {
  ffi::reflection::FieldSetter setter(std::string(class_key), std::string(name).c_str());
  setter(object, ffi::Any(Text(n)));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(set_field, SetField);

void AppendToField(ffi::ObjectRef object, ffi::String name, int64_t n) {
  ffi::reflection::FieldGetter getter(object->GetTypeKey(), std::string(name).c_str());
  List<Any> list = getter(object).cast<ffi::Array<List<Any>>>()[0];
  list.push_back(Text(n));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_to_field, AppendToField);

int64_t CallBack(Function function, int64_t n) {
  function(Text(n), Texts(n), MapOf(n), Adder(n));
  return n;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_back, CallBack);

int64_t CallBackInContainer(ffi::Array<Any> functions, int64_t n) {
  for (const Any& function : functions) function.cast<Function>()(Text(n));
  return n;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_back_in_container, CallBackInContainer);

int64_t CallGlobal(ffi::String name, int64_t n) {
  Function::GetGlobalRequired(name)(Text(n));
  return n;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_global, CallGlobal);

int64_t CallBackWithList(Function function, int64_t n) {
  function(List<Any>{Text(n), List<Any>{Texts(n)}});
  return n;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_back_with_list, CallBackWithList);

// The list comes from the function.
int64_t AppendToResult(Function function, int64_t n) {
  function().cast<List<Any>>().push_back(Text(n));
  return n;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_to_result, AppendToResult);

// The function comes from a function.
int64_t CallResult(Function function, int64_t n) {
  function().cast<Function>()(Text(n));
  return n;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_result, CallResult);

// It comes from a global function, and nothing that was given to the call itself can hold objects.
int64_t AppendToGlobalResult(ffi::String name, int64_t n) {
  Function::GetGlobalRequired(name)().cast<List<Any>>().push_back(Text(n));
  return n;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_to_global_result, AppendToGlobalResult);

// And fails afterwards.
int64_t AppendAndFail(List<Any> list, int64_t n) {
  list.push_back(Text(n));
  TVM_FFI_THROW(ValueError) << Long(n);
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_and_fail, AppendAndFail);

static Function Appender() {
  return Function::FromTyped([](List<Any> list, int64_t n) { list.push_back(Text(n)); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(appender, Appender);

// By tvm-ffi's own function, which appends it elsewhere.
void AppendByGlobal(List<Any> list, int64_t n) {
  Function::GetGlobalRequired("ffi.ListAppend")(list, Text(n));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_by_global, AppendByGlobal);

// As C code does it.
extern "C" TVM_FFI_DLL_EXPORT int __tvm_ffi_call_back_from_c(void*, const TVMFFIAny* args, int32_t,
                                                             TVMFFIAny*) {
  ffi::String text = Text(args[1].v_int64);
  TVMFFIAny argument = ffi::AnyView(text).CopyToTVMFFIAny();
  TVMFFIAny result = {};
  int code = TVMFFIFunctionCall(args[0].v_obj, &argument, 1, &result);
  if (result.type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(result.v_obj);
  return code;
}

// An error of tvm-ffi's with a cause of this code's.
int64_t FailWithCause(int64_t n) {
  TVMFFIByteArray kind{"ValueError", 10}, message{"outer", 5}, backtrace{"", 0};
  ffi::Error cause("ValueError", Long(n), "");
  TVMFFIObjectHandle error = nullptr;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIErrorCreateWithCauseAndExtraContext(
      &kind, &message, &backtrace, ffi::detail::ObjectUnsafe::TVMFFIObjectPtrFromObjectRef(cause),
      nullptr, &error));
  throw ffi::detail::ObjectUnsafe::ObjectRefFromObjectPtr<ffi::Error>(
      ffi::detail::ObjectUnsafe::ObjectPtrFromOwned<ffi::Object>(
          static_cast<TVMFFIObject*>(error)));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fail_with_cause, FailWithCause);

// A view of a tensor of this code's.
ffi::Any ViewOf(int64_t n) {
  ffi::Tensor tensor = TensorOf(n);
  TVMFFIObjectHandle view = nullptr;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFITensorCreateUnsafeView(
      ffi::detail::ObjectUnsafe::TVMFFIObjectPtrFromObjectRef(tensor), tensor.GetDLTensorPtr(),
      &view));
  return ffi::detail::ObjectUnsafe::ObjectRefFromObjectPtr<ffi::ObjectRef>(
      ffi::detail::ObjectUnsafe::ObjectPtrFromOwned<ffi::Object>(
          static_cast<TVMFFIObject*>(view)));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(view, ViewOf);

class PlainModule : public ffi::ModuleObj {
 public:
  const char* kind() const final { return "plain"; }
  ffi::Optional<Function> GetFunction(const ffi::String&) final { return Adder(2000); }
};

void Import(ffi::Module module) {
  module->ImportModule(ffi::Module(ffi::make_object<PlainModule>()));
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(import_module, Import);

// Made once, and destroyed when the code goes or the process ends.
ffi::String Cached() {
  static ffi::String cached = Text(1);
  return cached;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(cached, Cached);

// A function of this code's that hands out what it is asked for.
Function Storer() {
  return Function::FromTyped([](Function store) { store(Text(7)); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(storer, Storer);

Function AppenderToResult() {
  return Function::FromTyped([](Function f) { f().cast<List<Any>>().push_back(Text(5)); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(appender_to_result, AppenderToResult);

void CallInThread(Function function) {
  std::thread([&] { function(Text(8)); }).join();
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_in_thread, CallInThread);

// Of an array that becomes this code's own.
ffi::Array<Any> Replace(ffi::RValueRef<ffi::Array<Any>> given) {
  ffi::Array<Any> array = *std::move(given);
  array.Set(0, Text(9));
  return array;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(replace, Replace);

// An object of a class of somebody else's, with a string of this code's.
Any Create(int64_t n) {
  ffi::reflection::ObjectCreator creator("testing.TestObjectBase");
  return creator(ffi::Map<ffi::String, Any>{{"v_i64", 1}, {"v_f64", 1.0}, {"v_str", Text(n)}});
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(create, Create);

Function AppendAndThrow() {
  return Function::FromPacked([](ffi::PackedArgs args, Any*) {
    args[0].cast<List<Any>>().push_back(Text(6));
    throw std::runtime_error("not an error of tvm-ffi's");
  });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_and_throw, AppendAndThrow);

// For another load: holds a list, and has functions change it.
static List<Any>& Held() {
  static List<Any> held;
  return held;
}
void Store(Any value) { Held().push_back(value); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(store, Store);
List<Any> GetHeld() { return Held(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(get_held, GetHeld);
void ClearHeld() { Held().clear(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(clear_held, ClearHeld);
bool CatchStandard(Function function) {
  try {
    function(Held());
  } catch (const ffi::Error&) {
    return false;
  } catch (const std::exception& error) {
    return std::string(error.what()) == "not an error of tvm-ffi's";
  }
  return false;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(catch_standard, CatchStandard);

Function ThrowBadAlloc() {
  return Function::FromPacked([](ffi::PackedArgs, Any*) { throw std::bad_alloc(); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(throw_bad_alloc, ThrowBadAlloc);
bool CatchBadAlloc(Function function) {
  try {
    function();
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(catch_bad_alloc, CatchBadAlloc);

// Calls its own function as C code does, before it hands it out.
Function CallOwnFromC(List<Any> list, int64_t n) {
  Function appender = Appender();
  TVMFFIAny arguments[2] = {ffi::AnyView(list).CopyToTVMFFIAny(),
                            ffi::AnyView(n).CopyToTVMFFIAny()};
  TVMFFIAny result = {};
  TVM_FFI_CHECK_SAFE_CALL(
      TVMFFIFunctionCall(ffi::detail::ObjectUnsafe::TVMFFIObjectPtrFromObjectRef(appender),
                         arguments, 2, &result));
  return appender;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_own_from_c, CallOwnFromC);

// Several threads hand out one object that only this code holds.
void HandOutInThreads(Function function, int64_t rounds) {
  for (int64_t round = 0; round < rounds; ++round) {
    ffi::String text = Text(round);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back([&] { function(ffi::AnyView(text)); });
    for (std::thread& thread : threads) thread.join();
  }
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(hand_out_in_threads, HandOutInThreads);

void CallManyTimes(Function function, int64_t times) {
  for (int64_t i = 0; i < times; ++i) function();
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call_many_times, CallManyTimes);

// Any number of threads at a time.
void AppendInLoop(ffi::Array<List<Any>> lists, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    for (List<Any> list : lists) {
      list.push_back(Text(i));
      list.pop_back();
    }
  }
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_in_loop, AppendInLoop);

}  // namespace handing_out
