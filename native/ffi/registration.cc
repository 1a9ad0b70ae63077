// SPDX-License-Identifier: Apache-2.0
#include "ffi/registration.h"

#include <tvm/ffi/c_api.h>
#include <tvm/ffi/extra/c_env_api.h>

#include <new>
#include <string>

#include "ffi/backtrace.h"
#include "ffi/children.h"
#include "ffi/module.h"
#include "ffi/retained_objects.h"
#include "ffi/watched_functions.h"
#include "session/dylib.h"
#include "session/locations.h"

// Not in releases before 0.1.13.
extern "C" __attribute__((weak)) int TVMFFISetCustomAllocator(TVMFFICustomAllocator* allocator);

namespace object_loader {

namespace {

// Calls `keep` and, if there was memory for it, `call`.
template <typename Keep, typename Call>
int KeepAndCall(const Keep& keep, const Call& call) {
  try {
    keep();
  } catch (const std::bad_alloc&) {
    return RaiseOutOfMemory();
  }
  return call();
}

// What tvm-ffi knows for ever keeps the code for ever.
template <typename Function>
void KeepForEver(Function* function) {
  auto* load = LoadedCode::At(reinterpret_cast<const void*>(function));
  if (load) load->KeepForEver();
}

void KeepObject(void* object) {
  if (object) KeepCodeOfArgument(static_cast<TVMFFIObject*>(object));
}

// What loaded code has tvm-ffi make of a function of its own keeps the code.
template <typename Function, typename Create>
int CreateAndKeep(Function* function, TVMFFIObjectHandle* created, const Create& create) {
  auto* load = LoadedCode::At(reinterpret_cast<const void*>(function));
  int failed = create();
  if (failed || !load) return failed;
  try {
    KeepFor(static_cast<TVMFFIObject*>(*created), load);
  } catch (const std::bad_alloc&) {
    load->KeepForEver();  // for ever: what it was made of can't be given back
  }
  return 0;
}

// Watches what loaded code got; false, with an error raised, where there is no memory for it.
bool WatchWhatWasGot(TVMFFIObjectHandle got) {
  try {
    if (got) Watch(static_cast<TVMFFIObject*>(got));
    return true;
  } catch (const std::bad_alloc&) {
    RaiseOutOfMemory();
    return false;
  }
}

int FunctionCreate(void* self, TVMFFISafeCallType safe_call, void (*deleter)(void*),
                   TVMFFIObjectHandle* out) {
  return CreateAndKeep(safe_call, out,
                       [&] { return TVMFFIFunctionCreate(self, safe_call, deleter, out); });
}

int ObjectCreateOpaque(void* handle, int32_t type_index, void (*deleter)(void*),
                       TVMFFIObjectHandle* out) {
  return CreateAndKeep(deleter, out,
                       [&] { return TVMFFIObjectCreateOpaque(handle, type_index, deleter, out); });
}

int TensorFromDLPack(DLManagedTensor* from, int32_t alignment, int32_t contiguous,
                     TVMFFIObjectHandle* out) {
  return CreateAndKeep(from ? from->deleter : nullptr, out,
                       [&] { return TVMFFITensorFromDLPack(from, alignment, contiguous, out); });
}

int TensorFromDLPackVersioned(DLManagedTensorVersioned* from, int32_t alignment, int32_t contiguous,
                              TVMFFIObjectHandle* out) {
  return CreateAndKeep(from ? from->deleter : nullptr, out, [&] {
    return TVMFFITensorFromDLPackVersioned(from, alignment, contiguous, out);
  });
}

int TensorToDLPack(TVMFFIObjectHandle from, DLManagedTensor** out) {
  return KeepAndCall([&] { KeepObject(from); }, [&] { return TVMFFITensorToDLPack(from, out); });
}

int TensorToDLPackVersioned(TVMFFIObjectHandle from, DLManagedTensorVersioned** out) {
  return KeepAndCall([&] { KeepObject(from); },
                     [&] { return TVMFFITensorToDLPackVersioned(from, out); });
}

int TensorCreateUnsafeView(TVMFFIObjectHandle source, const DLTensor* prototype,
                           TVMFFIObjectHandle* out) {
  return KeepAndCall([&] { KeepObject(source); },
                     [&] { return TVMFFITensorCreateUnsafeView(source, prototype, out); });
}

int FunctionGetGlobal(const TVMFFIByteArray* name, TVMFFIObjectHandle* out) {
  int code = TVMFFIFunctionGetGlobal(name, out);
  if (code != 0 || WatchWhatWasGot(*out)) return code;
  TVMFFIObjectDecRef(*out);
  *out = nullptr;
  return -1;
}

// Of C code, which has functions called that nobody was asked to watch.
int FunctionCall(TVMFFIObjectHandle function, TVMFFIAny* args, int32_t num_args,
                 TVMFFIAny* result) {
  return KeepAndCall([&] { Watch(static_cast<TVMFFIObject*>(function)); },
                     [&] { return TVMFFIFunctionCall(function, args, num_args, result); });
}

int FunctionSetGlobal(const TVMFFIByteArray* name, TVMFFIObjectHandle function, int override) {
  return KeepAndCall([&] { KeepObject(function); },
                     [&] { return TVMFFIFunctionSetGlobal(name, function, override); });
}

int FunctionSetGlobalFromMethodInfo(const TVMFFIMethodInfo* method, int override) {
  return KeepAndCall([&] { KeepCodeOf(method->method); },
                     [&] { return TVMFFIFunctionSetGlobalFromMethodInfo(method, override); });
}

int TypeRegisterMethod(int32_t type_index, const TVMFFIMethodInfo* method) {
  return KeepAndCall([&] { KeepCodeOf(method->method); },
                     [&] { return TVMFFITypeRegisterMethod(type_index, method); });
}

int TypeRegisterField(int32_t type_index, const TVMFFIFieldInfo* field) {
  return KeepAndCall(
      [&] {
        KeepForEver(field->getter);
        if (field->flags & kTVMFFIFieldFlagBitSetterIsFunctionObj) {
          KeepObject(field->setter);
        } else {
          KeepForEver(reinterpret_cast<void (*)()>(field->setter));
        }
        KeepCodeOf(field->default_value_or_factory);
      },
      [&] { return TVMFFITypeRegisterField(type_index, field); });
}

int TypeRegisterMetadata(int32_t type_index, const TVMFFITypeMetadata* metadata) {
  return KeepAndCall([&] { KeepForEver(metadata->creator); },
                     [&] { return TVMFFITypeRegisterMetadata(type_index, metadata); });
}

int TypeRegisterAttr(int32_t type_index, const TVMFFIByteArray* name, const TVMFFIAny* value) {
  return KeepAndCall([&] { KeepCodeOf(*value); },
                     [&] { return TVMFFITypeRegisterAttr(type_index, name, value); });
}

int EnvSetDLPackManagedTensorAllocator(DLPackManagedTensorAllocator allocator, int is_global,
                                       DLPackManagedTensorAllocator* before) {
  KeepForEver(allocator);
  return TVMFFIEnvSetDLPackManagedTensorAllocator(allocator, is_global, before);
}

int SetCustomAllocator(TVMFFICustomAllocator* allocator) {
  if (allocator) KeepForEver(allocator->allocate);
  return TVMFFISetCustomAllocator(allocator);
}

int EnvRegisterCAPI(const char* name, void* symbol) {
  KeepForEver(reinterpret_cast<void (*)()>(symbol));
  return TVMFFIEnvRegisterCAPI(name, symbol);
}

int EnvModRegisterContextSymbol(const char* name, void* symbol) {
  KeepForEver(reinterpret_cast<void (*)()>(symbol));
  return TVMFFIEnvModRegisterContextSymbol(name, symbol);
}

int EnvModRegisterSystemLibSymbol(const char* name, void* symbol) {
  KeepForEver(reinterpret_cast<void (*)()>(symbol));
  return TVMFFIEnvModRegisterSystemLibSymbol(name, symbol);
}

// A function among the imports of the module. What loaded code made can outlive its module.
int EnvModLookupFromImports(void* library_ctx, const char* name, TVMFFIObjectHandle* out) {
  if (library_ctx) {
    int code = TVMFFIEnvModLookupFromImports(library_ctx, name, out);
    return code != 0 || WatchWhatWasGot(*out) ? code : -1;  // the module holds it
  }
  std::string message = std::string("cannot look up `") + name +
                        "` among the imports of a module that was dropped: hold the module";
  TVMFFIErrorSetRaisedFromCStr("SessionClosedError", message.c_str());
  return -1;
}

}  // namespace

void WatchRegistration() {
  PrepareOutOfMemory();
  IsMapLayoutKnown();
  auto replace = [](const char* name, auto* function) {
    ReplaceProcessSymbol(name, reinterpret_cast<void*>(function));
  };
  for (const auto& [name, function] : LocationFunctions()) ReplaceProcessSymbol(name, function);
  replace("TVMFFIBacktrace", Backtrace);
  replace("TVMFFIEnvModLookupFromImports", EnvModLookupFromImports);
  replace("TVMFFIEnvModRegisterContextSymbol", EnvModRegisterContextSymbol);
  replace("TVMFFIEnvModRegisterSystemLibSymbol", EnvModRegisterSystemLibSymbol);
  replace("TVMFFIEnvRegisterCAPI", EnvRegisterCAPI);
  replace("TVMFFIEnvSetDLPackManagedTensorAllocator", EnvSetDLPackManagedTensorAllocator);
  replace("TVMFFIErrorMoveFromRaised", ErrorMoveFromRaised);
  replace("TVMFFIErrorSetRaisedFromCStr", ErrorSetRaisedFromCStr);
  replace("TVMFFIErrorSetRaisedFromCStrParts", ErrorSetRaisedFromCStrParts);
  replace("TVMFFIFunctionCall", FunctionCall);
  replace("TVMFFIFunctionCreate", FunctionCreate);
  replace("TVMFFIFunctionGetGlobal", FunctionGetGlobal);
  replace("TVMFFIFunctionSetGlobal", FunctionSetGlobal);
  replace("TVMFFIFunctionSetGlobalFromMethodInfo", FunctionSetGlobalFromMethodInfo);
  replace("TVMFFIObjectCreateOpaque", ObjectCreateOpaque);
  if (TVMFFISetCustomAllocator) replace("TVMFFISetCustomAllocator", SetCustomAllocator);
  replace("TVMFFITensorCreateUnsafeView", TensorCreateUnsafeView);
  replace("TVMFFITensorFromDLPack", TensorFromDLPack);
  replace("TVMFFITensorFromDLPackVersioned", TensorFromDLPackVersioned);
  replace("TVMFFITensorToDLPack", TensorToDLPack);
  replace("TVMFFITensorToDLPackVersioned", TensorToDLPackVersioned);
  replace("TVMFFITypeRegisterAttr", TypeRegisterAttr);
  replace("TVMFFITypeRegisterField", TypeRegisterField);
  replace("TVMFFITypeRegisterMetadata", TypeRegisterMetadata);
  replace("TVMFFITypeRegisterMethod", TypeRegisterMethod);
}

}  // namespace object_loader
