// SPDX-License-Identifier: Apache-2.0
#include "ffi/retained_objects.h"

#include <tvm/ffi/container/map_base.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/object.h>

#include <array>
#include <memory>
#include <mutex>
#include <new>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/fork_lock.h"
#include "session/dylib.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

using Deleter = void (*)(void*, int);
using Code = std::shared_ptr<void>;

ffi::Error OutOfMemory() { return ffi::Error("MemoryError", "out of memory in a call", ""); }
// For when there is no memory for an error.
const ffi::Error* spare_error = nullptr;

// What an object had before its pointers were replaced.
struct Kept {
  Deleter deleter;
  TVMFFIFunctionCell calls;  // of a function
  Code code;
};

// All objects that keep code. In parts, so that threads seldom wait for each other.
class KeptObjects {
 public:
  // False where the object is there already.
  bool Add(TVMFFIObject* object, Kept kept) {
    Part& part = PartOf(object);
    std::lock_guard<Mutex> lock(part.mutex);
    return part.objects.try_emplace(object, std::move(kept)).second;
  }
  Kept Find(const void* object) {
    Part& part = PartOf(object);
    std::lock_guard<Mutex> lock(part.mutex);
    return part.objects.at(object);
  }
  Kept Remove(const void* object) {
    Part& part = PartOf(object);
    std::lock_guard<Mutex> lock(part.mutex);
    auto found = part.objects.find(object);
    Kept kept = std::move(found->second);
    part.objects.erase(found);
    return kept;
  }

 private:
  struct Part {
    Mutex mutex;
    std::unordered_map<const void*, Kept> objects;
  };
  Part& PartOf(const void* object) {
    return parts_[(reinterpret_cast<uintptr_t>(object) >> 5) % parts_.size()];
  }
  std::array<Part, 16> parts_;
};

// Never destroyed: objects may outlive everything else.
KeptObjects& Objects() {
  static auto* objects = new KeptObjects;
  return *objects;
}

template <typename Cell>
Cell* CellOf(TVMFFIObject* object) {
  return reinterpret_cast<Cell*>(reinterpret_cast<char*>(object) + sizeof(TVMFFIObject));
}

void DeleteObject(void* object, int flags) {
  // Once the memory is free another object may have the address.
  bool last = (flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0;
  Kept kept = last ? Objects().Remove(object) : Objects().Find(object);
  kept.deleter(object, flags);
}

int CallFunction(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  // The code is kept for the call, too: the callee may drop itself.
  Kept kept = Objects().Find(self);
  return KeepCodeOfOutcome(kept.calls.safe_call(self, args, num_args, result), *result);
}

// As FunctionObj::FCall.
void CallFunctionFromCxx(const ffi::FunctionObj* self, const ffi::AnyView* args, int32_t num_args,
                         ffi::Any* result) {
  Kept kept = Objects().Find(self);
  try {
    reinterpret_cast<ffi::FunctionObj::FCall>(kept.calls.cpp_call)(self, args, num_args, result);
  } catch (const ffi::Error& error) {
    try {
      KeepCodeOf(ffi::AnyView(error).CopyToTVMFFIAny());
    } catch (const std::bad_alloc&) {
      RaiseOutOfMemory();
      throw ffi::detail::MoveFromSafeCallRaised();
    }
    throw;
  }
  try {
    KeepCodeOf(ffi::AnyView(*result).CopyToTVMFFIAny());
  } catch (const std::bad_alloc&) {
    *result = nullptr;  // while its code is there
    RaiseOutOfMemory();
    throw ffi::detail::MoveFromSafeCallRaised();
  }
}

bool IsKept(const TVMFFIObject* object) { return object->deleter == DeleteObject; }

// Whoever calls this holds the object, so that nobody uses its deleter meanwhile.
void Keep(TVMFFIObject* object, Code code) {
  auto* function =
      object->type_index == kTVMFFIFunction ? CellOf<TVMFFIFunctionCell>(object) : nullptr;
  Kept kept = {object->deleter, function ? *function : TVMFFIFunctionCell{}, std::move(code)};
  // Another thread may have been faster.
  if (kept.deleter == DeleteObject || !Objects().Add(object, std::move(kept))) return;
  if (function) {
    if (function->cpp_call) function->cpp_call = reinterpret_cast<void*>(CallFunctionFromCxx);
    function->safe_call = CallFunction;
  }
  object->deleter = DeleteObject;
}

Code CodeOf(TVMFFIObject* object) {
  Code code = CodeLifetime::KeepCodeAt(reinterpret_cast<void*>(object->deleter));
  if (!code && object->type_index == kTVMFFIFunction) {
    code = CodeLifetime::KeepCodeAt(
        reinterpret_cast<void*>(CellOf<TVMFFIFunctionCell>(object)->safe_call));
  }
  return code;
}

// Walks from an object to all that it holds.
class Walk {
 public:
  void Visit(TVMFFIObject* object) {
    Push(object);
    while (!waiting_.empty()) {
      TVMFFIObject* next = waiting_.back();
      waiting_.pop_back();
      VisitOne(next);
    }
  }

 private:
  void Push(void* object) {
    if (object) waiting_.push_back(static_cast<TVMFFIObject*>(object));
  }
  void Push(const TVMFFIAny& value) {
    if (value.type_index >= kTVMFFIStaticObjectBegin) Push(value.v_obj);
  }

  void VisitOne(TVMFFIObject* object) {
    bool was_kept = IsKept(object);
    bool is_mutable = object->type_index == kTVMFFIList || object->type_index == kTVMFFIDict;
    if (was_kept && !is_mutable) return;
    if (!was_kept) {
      Code code = CodeOf(object);
      // What others made is theirs to look after, with all that it holds.
      if (!code) return;
      Keep(object, std::move(code));
    }
    if (is_mutable && !visited_.insert(object).second) return;
    PushChildren(object);
  }

  void PushChildren(TVMFFIObject* object) {
    switch (object->type_index) {
      case kTVMFFIArray:
      case kTVMFFIList: {
        auto* sequence = CellOf<TVMFFISeqCell>(object);
        auto* elements = static_cast<const TVMFFIAny*>(sequence->data);
        for (int64_t i = 0; i < sequence->size; ++i) Push(elements[i]);
        break;
      }
      case kTVMFFIMap:
      case kTVMFFIDict: {
        auto* map = ffi::detail::ObjectUnsafe::RawObjectPtrFromUnowned<ffi::MapBaseObj>(object);
        for (auto& [key, value] : *map) {
          Push(ffi::AnyView(key).CopyToTVMFFIAny());
          Push(ffi::AnyView(value).CopyToTVMFFIAny());
        }
        break;
      }
      case kTVMFFIError: {
        auto* error = CellOf<TVMFFIErrorCell>(object);
        Push(error->cause_chain);
        Push(error->extra_context);
        break;
      }
      default:
        if (object->type_index >= kTVMFFIDynObjectBegin) PushFields(object);
    }
  }

  // The fields that a class has told tvm-ffi of.
  void PushFields(TVMFFIObject* object) {
    const TVMFFITypeInfo* type = TVMFFIGetTypeInfo(object->type_index);
    if (!type) return;
    auto push = [&](const TVMFFITypeInfo& info) {
      for (int i = 0; i < info.num_fields; ++i) {
        const TVMFFIFieldInfo& field = info.fields[i];
        TVMFFIAny value = {};
        if (field.getter(reinterpret_cast<char*>(object) + field.offset, &value) != 0) continue;
        if (value.type_index < kTVMFFIStaticObjectBegin) continue;
        owned_.push_back(ffi::detail::ObjectUnsafe::ObjectPtrFromOwned<ffi::Object>(value.v_obj));
        Push(value);
      }
    };
    for (int i = 1; i < type->type_depth; ++i) push(*type->type_ancestors[i]);
    push(*type);
  }

  std::vector<TVMFFIObject*> waiting_;
  std::unordered_set<const TVMFFIObject*> visited_;
  std::vector<ffi::ObjectPtr<ffi::Object>> owned_;
};

// What loaded code has tvm-ffi make of a function of its own keeps the code.
template <typename Create>
int CreateAndKeep(void* function, TVMFFIObjectHandle* created, const Create& create) {
  Code code;
  try {
    code = CodeLifetime::KeepCodeAt(function);
  } catch (const std::bad_alloc&) {
    return RaiseOutOfMemory();
  }
  int failed = create();
  if (failed || !code) return failed;
  try {
    Keep(static_cast<TVMFFIObject*>(*created), code);
  } catch (const std::bad_alloc&) {
    // What it was made of can't be given back, so the code stays for ever.
    alignas(Code) char never_destroyed[sizeof(Code)];
    new (never_destroyed) Code(std::move(code));
  }
  return 0;
}

// What tvm-ffi knows for ever keeps the code for ever.
void KeepForEver(const void* function) {
  if (Code code = CodeLifetime::KeepCodeAt(function)) new Code(std::move(code));
}

int FunctionCreate(void* self, TVMFFISafeCallType safe_call, void (*deleter)(void*),
                   TVMFFIObjectHandle* out) {
  return CreateAndKeep(reinterpret_cast<void*>(safe_call), out,
                       [&] { return TVMFFIFunctionCreate(self, safe_call, deleter, out); });
}

int ObjectCreateOpaque(void* handle, int32_t type_index, void (*deleter)(void*),
                       TVMFFIObjectHandle* out) {
  return CreateAndKeep(reinterpret_cast<void*>(deleter), out,
                       [&] { return TVMFFIObjectCreateOpaque(handle, type_index, deleter, out); });
}

int TensorFromDLPack(DLManagedTensor* from, int32_t alignment, int32_t contiguous,
                     TVMFFIObjectHandle* out) {
  void* deleter = from ? reinterpret_cast<void*>(from->deleter) : nullptr;
  return CreateAndKeep(deleter, out,
                       [&] { return TVMFFITensorFromDLPack(from, alignment, contiguous, out); });
}

int TensorFromDLPackVersioned(DLManagedTensorVersioned* from, int32_t alignment, int32_t contiguous,
                              TVMFFIObjectHandle* out) {
  void* deleter = from ? reinterpret_cast<void*>(from->deleter) : nullptr;
  return CreateAndKeep(deleter, out, [&] {
    return TVMFFITensorFromDLPackVersioned(from, alignment, contiguous, out);
  });
}

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

int FunctionSetGlobal(const TVMFFIByteArray* name, TVMFFIObjectHandle function, int override) {
  return KeepAndCall(
      [&] {
        if (function) Walk().Visit(static_cast<TVMFFIObject*>(function));
      },
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
        KeepForEver(reinterpret_cast<void*>(field->getter));
        KeepCodeOf(field->default_value_or_factory);
      },
      [&] { return TVMFFITypeRegisterField(type_index, field); });
}

int TypeRegisterMetadata(int32_t type_index, const TVMFFITypeMetadata* metadata) {
  return KeepAndCall([&] { KeepForEver(reinterpret_cast<void*>(metadata->creator)); },
                     [&] { return TVMFFITypeRegisterMetadata(type_index, metadata); });
}

int TypeRegisterAttr(int32_t type_index, const TVMFFIByteArray* name, const TVMFFIAny* value) {
  return KeepAndCall([&] { KeepCodeOf(*value); },
                     [&] { return TVMFFITypeRegisterAttr(type_index, name, value); });
}

}  // namespace

void KeepCodeOf(const TVMFFIAny& value) {
  if (value.type_index >= kTVMFFIStaticObjectBegin) Walk().Visit(value.v_obj);
}

int RaiseOutOfMemory() {
  try {
    ffi::detail::SetSafeCallRaised(OutOfMemory());
  } catch (const std::bad_alloc&) {
    ffi::detail::SetSafeCallRaised(*spare_error);
  }
  return -1;
}

int KeepCodeOfResult(TVMFFIAny& result) {
  try {
    KeepCodeOf(result);
    return 0;
  } catch (const std::bad_alloc&) {
    TVMFFIObjectDecRef(result.v_obj);
    result = {};
    return RaiseOutOfMemory();
  }
}

int KeepCodeOfRaisedError(int code) {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) return code;
  try {
    Walk().Visit(static_cast<TVMFFIObject*>(error));
    TVMFFIErrorSetRaised(error);
  } catch (const std::bad_alloc&) {
    code = RaiseOutOfMemory();
  }
  TVMFFIObjectDecRef(error);
  return code;
}

void WatchObjectRegistration() {
  spare_error = new ffi::Error(OutOfMemory());
  auto replace = [](const char* name, auto* function) {
    ReplaceProcessSymbol(name, reinterpret_cast<void*>(function));
  };
  replace("TVMFFIFunctionCreate", FunctionCreate);
  replace("TVMFFIObjectCreateOpaque", ObjectCreateOpaque);
  replace("TVMFFITensorFromDLPack", TensorFromDLPack);
  replace("TVMFFITensorFromDLPackVersioned", TensorFromDLPackVersioned);
  replace("TVMFFIFunctionSetGlobal", FunctionSetGlobal);
  replace("TVMFFIFunctionSetGlobalFromMethodInfo", FunctionSetGlobalFromMethodInfo);
  replace("TVMFFITypeRegisterMethod", TypeRegisterMethod);
  replace("TVMFFITypeRegisterField", TypeRegisterField);
  replace("TVMFFITypeRegisterMetadata", TypeRegisterMetadata);
  replace("TVMFFITypeRegisterAttr", TypeRegisterAttr);
}

}  // namespace object_loader
