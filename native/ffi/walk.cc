// SPDX-License-Identifier: Apache-2.0
#include "ffi/walk.h"

#include <tvm/ffi/cast.h>

#include <algorithm>

#include "ffi/watched_functions.h"

namespace object_loader {

namespace ffi = tvm::ffi;

void Walk::Visit(TVMFFIObject* object, bool is_owned) {
  Meet(object, true, is_owned);
  while (!waiting_.empty()) {
    auto [next, is_new] = waiting_.back();
    waiting_.pop_back();
    expected_ = CountOfChildren(next);
    if (next->type_index == kTVMFFIDict) KeepDataOf(next);
    // As long as the container is nobody else's, so is what it alone holds.
    bool is_only_here = is_new;
    VisitChildren(
        next, [&](TVMFFIObject* child, bool is_lasting) { Meet(child, is_lasting, is_only_here); });
  }
}

void Walk::Keep(TVMFFIObject* object, LoadedCode* load) {
  void* original = FunctionIn(object->deleter);
  if (AllTrampolines().Have(original)) return;
  Keep(object, original, AllTrampolines().Get(load, original, Address(DeleteObject)), false);
}

void Walk::Meet(TVMFFIObject* object, bool is_lasting, bool may_be_only_here) {
  bool is_only_here = false;
  bool is_new = Keep(object, may_be_only_here, is_only_here);
  int32_t type = object->type_index;
  if (type == kTVMFFIFunction) {
    if (!is_new && reach_ == Reach::kAll) Watch(object);
    return;
  }
  if (!CanHoldObjects(type)) return;
  bool is_mutable = type != kTVMFFIArray && type != kTVMFFIMap;
  met_mutable_ |= is_mutable;
  met_mutable_dict_ |= type == kTVMFFIDict;
  if (!is_new) {
    if (reach_ == Reach::kOwn && !is_mutable) return;
    if (!visited_.insert(object).second) return;
  }
  if (!is_lasting) {
    held_.push_back(ffi::GetObjectPtr<ffi::Object>(
        ffi::detail::ObjectUnsafe::RawObjectPtrFromUnowned<ffi::Object>(object)));
  }
  waiting_.emplace_back(object, is_new && is_only_here);
}

bool Walk::Keep(TVMFFIObject* object, bool may_be_only_here, bool& is_only_here) {
  void* original = FunctionIn(object->deleter);
  Trampoline* trampoline = AllTrampolines().OfLoadedCode(original, Address(DeleteObject));
  if (!trampoline) {
    if (object->type_index != kTVMFFIFunction) return false;
    auto* cell = CellOf<TVMFFIFunctionCell>(object);
    Trampoline* call =
        AllTrampolines().OfLoadedCode(FunctionIn(cell->safe_call), Address(CallFunction));
    if (!call) return false;
    trampoline = &AllTrampolines().Get(call->load, original, Address(DeleteObject));
  }
  constexpr uint64_t kOne = 1ULL << 32 | 1;  // one reference, and none that is weak
  is_only_here =
      may_be_only_here && __atomic_load_n(&object->combined_ref_count, __ATOMIC_RELAXED) == kOne;
  return Keep(object, original, *trampoline, is_only_here);
}

bool Walk::Keep(TVMFFIObject* object, void* original, const Trampoline& trampoline,
                bool is_only_here) {
  // Beforehand: where there is no memory for it, nothing is half done.
  if (object->type_index == kTVMFFIFunction) WatchCalls(object, trampoline.load);
  AddUse(trampoline.load);
  if (is_only_here) {
    object->deleter = reinterpret_cast<decltype(object->deleter)>(trampoline.code);
  } else if (!Replace(object->deleter, original, trampoline)) {
    ++spare_uses_;
    return false;
  }
  return true;
}

void Walk::KeepDataOf(TVMFFIObject* dict) {
  void** place = DataDeleterOf(dict);
  if (!place) return;
  void* original = FunctionIn(*place);
  Trampoline* trampoline = AllTrampolines().OfLoadedCode(original, Address(DeleteData));
  if (!trampoline) return;
  AddUse(trampoline->load);
  if (!Replace(*place, original, *trampoline)) ++spare_uses_;
}

void Walk::AddUse(LoadedCode* load) {
  if (load != load_ || spare_uses_ == 0) {
    EndSpareUses();
    spare_uses_ = std::max<int64_t>(expected_, 1);
    load->AddUses(spare_uses_);
    load_ = load;
  }
  --spare_uses_;
}

}  // namespace object_loader
