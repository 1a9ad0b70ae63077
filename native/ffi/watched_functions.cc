// SPDX-License-Identifier: Apache-2.0
#include "ffi/watched_functions.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/object.h>

#include <new>
#include <optional>
#include <utility>

#include "ffi/backtrace.h"
#include "ffi/children.h"
#include "ffi/crossing.h"
#include "ffi/exported_function.h"
#include "ffi/retained_objects.h"

namespace object_loader {

namespace ffi = tvm::ffi;

namespace {

using DataDeleter = void(void*);
using ObjectDeleter = void(void*, int);
using SafeCall = int(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);
using CxxCall = void(const ffi::FunctionObj*, const ffi::AnyView*, int32_t, ffi::Any*);

// While a function runs: it may drop itself.
class UseOfCode {
 public:
  explicit UseOfCode(LoadedCode* load) : load_(load) {
    if (load_) load_->AddUses(1);
  }
  ~UseOfCode() {
    if (load_) load_->EndUses(1);
  }
  UseOfCode(const UseOfCode&) = delete;
  UseOfCode& operator=(const UseOfCode&) = delete;

 private:
  LoadedCode* load_;
};

}  // namespace

void DeleteObject(void* object, int flags, void*, void*, Trampoline* self) {
  LoadedCode* load = self->load;
  self->Original<ObjectDeleter>()(object, flags);
  if (flags & kTVMFFIObjectDeleterFlagBitMaskWeak) load->EndUses(1);
}

void DeleteData(void* data, void*, void*, void*, Trampoline* self) {
  LoadedCode* load = self->load;
  self->Original<DataDeleter>()(data);
  load->EndUses(1);
}

int CallFunction(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result,
                 Trampoline* trampoline) {
  LoadedCode* load = trampoline->load;
  UseOfCode use(load);
  auto keep_for_ever = [load] {
    if (load) load->KeepForEver();
  };
  try {
    Crossing crossing(args, num_args, /*gates=*/0);
    int code = trampoline->Original<SafeCall>()(self, args, num_args, result);
    if (code != 0 && !load) AddCallersToRaised();
    if (load) crossing.Leave(code, *result, keep_for_ever);
    code = KeepCodeOfOutcome(code, *result);
    if (code != 0) return code;
    try {
      Crossing::NoteGiven(*result);
      return 0;
    } catch (const std::bad_alloc&) {
      TVMFFIObjectDecRef(std::exchange(*result, {}).v_obj);
      return RaiseOutOfMemory();
    }
  } catch (const std::bad_alloc&) {
    return RaiseOutOfMemory();
  }
}

namespace {

[[noreturn]] void ThrowOutOfMemory() {
  RaiseOutOfMemory();
  throw ffi::detail::MoveFromSafeCallRaised();
}

// The same for calls that pass exceptions on.
void CallFromCxx(const ffi::FunctionObj* self, const ffi::AnyView* args, int32_t num_args,
                 ffi::Any* result, Trampoline* trampoline) {
  LoadedCode* load = trampoline->load;
  UseOfCode use(load);
  auto keep_for_ever = [load] {
    if (load) load->KeepForEver();
  };
  std::optional<Crossing> crossing;
  try {
    crossing.emplace(reinterpret_cast<const TVMFFIAny*>(args), num_args, /*gates=*/0u);
  } catch (const std::bad_alloc&) {
    ThrowOutOfMemory();
  }
  try {
    trampoline->Original<CxxCall>()(self, args, num_args, result);
  } catch (const ffi::Error& error) {
    if (!load) AddCallersTo(ffi::AnyView(error).CopyToTVMFFIAny().v_obj);
    if (load) crossing->LeaveByException(keep_for_ever);
    try {
      KeepCodeOf(ffi::AnyView(error).CopyToTVMFFIAny());
    } catch (const std::bad_alloc&) {
      ThrowOutOfMemory();
    }
    throw;
  } catch (...) {
    if (load) crossing->LeaveByException(keep_for_ever);
    throw;
  }
  TVMFFIAny value = ffi::AnyView(*result).CopyToTVMFFIAny();
  if (load) crossing->Leave(0, value, keep_for_ever);
  try {
    if (value.type_index < kTVMFFIStaticObjectBegin) return;
    KeepCodeOf(value);
    Crossing::NoteGiven(value);
  } catch (const std::bad_alloc&) {
    *result = nullptr;  // while its code is there
    ThrowOutOfMemory();
  }
}

template <typename Function, typename Handler>
void WatchCall(Function*& place, LoadedCode* load, Handler* handler) {
  void* original = FunctionIn(place);
  if (!original || AllTrampolines().Have(original)) return;
  Replace(place, original, AllTrampolines().Get(load, original, Address(handler)));
}

}  // namespace

void WatchCalls(TVMFFIObject* function, LoadedCode* load) {
  auto* cell = CellOf<TVMFFIFunctionCell>(function);
  WatchCall(cell->cpp_call, load, CallFromCxx);
  WatchCall(cell->safe_call, load, CallFunction);
}

void Watch(TVMFFIObject* object) {
  if (object->type_index != kTVMFFIFunction || ExportedFunctionObj::IsInstance(object)) return;
  // Loaded code's own is kept when it is handed out.
  auto* cell = CellOf<TVMFFIFunctionCell>(object);
  if (AllTrampolines().OfLoadedCode(FunctionIn(object->deleter), Address(DeleteObject)) ||
      AllTrampolines().OfLoadedCode(FunctionIn(cell->safe_call), Address(CallFunction))) {
    return;
  }
  WatchCalls(object, nullptr);
}

}  // namespace object_loader
