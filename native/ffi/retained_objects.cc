// SPDX-License-Identifier: Apache-2.0
#include "ffi/retained_objects.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/object.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <memory_resource>
#include <new>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "ffi/backtrace.h"
#include "ffi/exported_function.h"
#include "session/call_gate.h"
#include "session/trampolines.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

using Loaded = CodeLifetime::Loaded;
using DataDeleter = void(void*);
using ObjectDeleter = void(void*, int);
using SafeCall = int(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);
using CxxCall = void(const ffi::FunctionObj*, const ffi::AnyView*, int32_t, ffi::Any*);

ffi::Error OutOfMemory() { return ffi::Error("MemoryError", "out of memory in a call", ""); }
// For when there is no memory for an error.
const ffi::Error* spare_error = nullptr;

Trampolines& AllTrampolines() {
  static Trampolines& trampolines = Trampolines::OfProcess();
  return trampolines;
}

template <typename Handler>
void* Address(Handler* handler) {
  return reinterpret_cast<void*>(handler);
}

// While a function runs: it may drop itself.
class UseOfCode {
 public:
  explicit UseOfCode(Loaded* load) : load_(load) {
    if (load_) load_->AddUses(1);
  }
  ~UseOfCode() {
    if (load_) load_->EndUses(1);
  }
  UseOfCode(const UseOfCode&) = delete;
  UseOfCode& operator=(const UseOfCode&) = delete;

 private:
  Loaded* load_;
};

// What this thread's calls were given meanwhile, by those that loaded code called.
struct Given {
  std::vector<ffi::WeakObjectPtr<ffi::Object>> objects;
  size_t room = 64;      // when there are so many, those that are gone are taken out
  uint64_t version = 0;  // how often that was done

  void Add(TVMFFIObject* object) {
    if (objects.size() >= room) {
      objects.erase(std::remove_if(objects.begin(), objects.end(),
                                   [](auto& each) { return each.lock() == nullptr; }),
                    objects.end());
      room = std::max<size_t>(64, 2 * objects.size());
      ++version;
    }
    objects.emplace_back(ffi::GetObjectPtr<ffi::Object>(
        ffi::detail::ObjectUnsafe::RawObjectPtrFromUnowned<ffi::Object>(object)));
  }
  // From the one of this number on; `keep_for_ever` as in Crossing::Leave. Throws std::bad_alloc.
  void KeepCode(size_t first, llvm::function_ref<void()> keep_for_ever);
};

Given* GivenOf(const ThreadRecord& record) { return static_cast<Given*>(record.given); }

void DropGiven(ThreadRecord& record) {
  delete static_cast<Given*>(std::exchange(record.given, nullptr));
}

// The handlers.

void DeleteObject(void* object, int flags, void*, void*, Trampoline* self) {
  Loaded* load = self->load;
  self->Original<ObjectDeleter>()(object, flags);
  if (flags & kTVMFFIObjectDeleterFlagBitMaskWeak) load->EndUses(1);
}

void DeleteData(void* data, void*, void*, void*, Trampoline* self) {
  Loaded* load = self->load;
  self->Original<DataDeleter>()(data);
  load->EndUses(1);
}

int CallFunction(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result,
                 Trampoline* trampoline) {
  Loaded* load = trampoline->load;
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

[[noreturn]] void ThrowOutOfMemory() {
  RaiseOutOfMemory();
  throw ffi::detail::MoveFromSafeCallRaised();
}

// The same for calls that pass exceptions on.
void CallFromCxx(const ffi::FunctionObj* self, const ffi::AnyView* args, int32_t num_args,
                 ffi::Any* result, Trampoline* trampoline) {
  Loaded* load = trampoline->load;
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

// Replaces a function of the object's, unless another thread was faster.
template <typename Function>
bool Replace(Function*& place, void* original, const Trampoline& trampoline) {
  return __atomic_compare_exchange_n(&reinterpret_cast<void*&>(place), &original, trampoline.code,
                                     false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

template <typename Function, typename Handler>
void WatchCall(Function*& place, Loaded* load, Handler* handler) {
  void* original = FunctionIn(place);
  if (!original || AllTrampolines().Have(original)) return;
  Replace(place, original, AllTrampolines().Get(load, original, Address(handler)));
}

void WatchCalls(TVMFFIObject* function, Loaded* load) {
  auto* cell = CellOf<TVMFFIFunctionCell>(function);
  WatchCall(cell->cpp_call, load, CallFromCxx);
  WatchCall(cell->safe_call, load, CallFunction);
}

// Walks from an object to all that it holds.
class Walk {
 public:
  enum class Reach {
    kOwn,  // what others made is theirs to look after, but for what can be changed
    kAll,
  };

  explicit Walk(Reach reach) : reach_(reach) {}
  ~Walk() { EndSpareUses(); }
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

  // Whether anything was met that can be changed.
  bool met_mutable() const { return met_mutable_; }
  // Whether anything was met whose memory may be loaded code's, which does not show.
  bool met_opaque() const { return met_mutable_dict_ && !IsMapLayoutKnown(); }

  // `is_owned`: by the caller alone, if it has the one reference that there is.
  void Visit(TVMFFIObject* object, bool is_owned) {
    Meet(object, true, is_owned);
    while (!waiting_.empty()) {
      auto [next, is_new] = waiting_.back();
      waiting_.pop_back();
      expected_ = CountOfChildren(next);
      if (next->type_index == kTVMFFIDict) KeepDataOf(next);
      // As long as the container is nobody else's, so is what it alone holds.
      bool is_only_here = is_new;
      VisitChildren(next, [&](TVMFFIObject* child, bool is_lasting) {
        Meet(child, is_lasting, is_only_here);
      });
    }
  }

  // As if the object's deleter were in the code.
  void Keep(TVMFFIObject* object, Loaded* load) {
    void* original = FunctionIn(object->deleter);
    if (AllTrampolines().Have(original)) return;
    Keep(object, original, AllTrampolines().Get(load, original, Address(DeleteObject)), false);
  }

 private:
  void Meet(TVMFFIObject* object, bool is_lasting, bool may_be_only_here) {
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

  // Whether the object is loaded code's, and was not kept before.
  bool Keep(TVMFFIObject* object, bool may_be_only_here, bool& is_only_here) {
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

  bool Keep(TVMFFIObject* object, void* original, const Trampoline& trampoline, bool is_only_here) {
    // Beforehand: where there is no memory for it, nothing is half done.
    if (object->type_index == kTVMFFIFunction) WatchCalls(object, trampoline.load);
    AddUse(trampoline.load);
    if (is_only_here) {
      object->deleter = reinterpret_cast<ObjectDeleter*>(trampoline.code);
    } else if (!Replace(object->deleter, original, trampoline)) {
      ++spare_uses_;
      return false;
    }
    return true;
  }

  // A map's table may be of another map, of loaded code, whose entries it took over.
  void KeepDataOf(TVMFFIObject* dict) {
    void** place = DataDeleterOf(dict);
    if (!place) return;
    void* original = FunctionIn(*place);
    Trampoline* trampoline = AllTrampolines().OfLoadedCode(original, Address(DeleteData));
    if (!trampoline) return;
    AddUse(trampoline->load);
    if (!Replace(*place, original, *trampoline)) ++spare_uses_;
  }

  // Uses are counted before they begin, for several objects at a time.
  void AddUse(Loaded* load) {
    if (load != load_ || spare_uses_ == 0) {
      EndSpareUses();
      spare_uses_ = std::max<int64_t>(expected_, 1);
      load->AddUses(spare_uses_);
      load_ = load;
    }
    --spare_uses_;
  }
  void EndSpareUses() {
    if (spare_uses_ != 0) load_->EndUses(std::exchange(spare_uses_, 0));
  }

  const Reach reach_;
  // Most walks end without the heap.
  alignas(std::max_align_t) char memory_[768];
  std::pmr::monotonic_buffer_resource allocator_{memory_, sizeof(memory_)};
  std::pmr::vector<std::pair<TVMFFIObject*, bool>> waiting_{&allocator_};
  std::pmr::unordered_set<const TVMFFIObject*> visited_{&allocator_};
  std::pmr::vector<ffi::ObjectPtr<ffi::Object>> held_{&allocator_};
  Loaded* load_ = nullptr;
  uint64_t spare_uses_ = 0;
  int64_t expected_ = 0;
  bool met_mutable_ = false;
  bool met_mutable_dict_ = false;
};

}  // namespace

void KeepCodeOf(const TVMFFIAny& value) {
  if (value.type_index < kTVMFFIStaticObjectBegin) return;
  Walk(Walk::Reach::kOwn).Visit(value.v_obj, true);
}

bool ArrayLeadsToObjects(TVMFFIObject* array, int depth) {
  constexpr int kDeepest = 8;
  auto* sequence = CellOf<TVMFFISeqCell>(array);
  return depth > kDeepest ||
         LeadToObjects(static_cast<const TVMFFIAny*>(sequence->data), sequence->size, depth);
}

void KeepCodeOfArgument(TVMFFIObject* object) { Walk(Walk::Reach::kAll).Visit(object, false); }

void KeepFor(TVMFFIObject* object, Loaded* load) { Walk(Walk::Reach::kOwn).Keep(object, load); }

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

void Given::KeepCode(size_t first, llvm::function_ref<void()> keep_for_ever) {
  Walk walk(Walk::Reach::kAll);
  for (size_t i = first; i < objects.size(); ++i) {
    ffi::ObjectPtr<ffi::Object> object = objects[i].lock();
    if (object) walk.Visit(ffi::detail::ObjectUnsafe::TVMFFIObjectPtrFromObjectPtr(object), false);
  }
  if (walk.met_opaque()) keep_for_ever();
}

// An argument's object; null where there is none, or it was taken.
static TVMFFIObject* ObjectOf(const TVMFFIAny& argument) {
  if (argument.type_index >= kTVMFFIStaticObjectBegin) return argument.v_obj;
  if (argument.type_index != kTVMFFIObjectRValueRef) return nullptr;
  return *static_cast<TVMFFIObject**>(argument.v_ptr);
}

Crossing::Crossing(const TVMFFIAny* arguments, int32_t count, uint32_t gates)
    : arguments_(arguments),
      count_(count),
      gates_(gates),
      record_(CallScope::MakeRecordOfThisThread()) {
  Walk walk(Walk::Reach::kAll);
  for (int32_t i = 0; i < count; ++i) {
    may_take_ |= arguments[i].type_index == kTVMFFIObjectRValueRef;
    if (TVMFFIObject* object = ObjectOf(arguments[i])) walk.Visit(object, false);
  }
  may_change_ = walk.met_mutable() || may_take_;
  if (Given* given = GivenOf(record_)) {
    given_before_ = given->objects.size();
    given_version_ = given->version;
  }
  ++record_.crossings;
}

Crossing::~Crossing() {
  bool is_outermost =
      --record_.crossings == 0 && record_.depth.load(std::memory_order_relaxed) <= gates_;
  if (is_outermost && record_.given) DropGiven(record_);
}

void Crossing::Leave(int code, const TVMFFIAny& result, llvm::function_ref<void()> keep_for_ever) {
  // What the walk calls may raise errors of its own.
  TVMFFIObjectHandle error = nullptr;
  if (code != 0) TVMFFIErrorMoveFromRaised(&error);
  LeaveByException(keep_for_ever);
  if (error) {
    TVMFFIErrorSetRaised(error);
    TVMFFIObjectDecRef(error);
  }
  // What it has made of an argument of its own may hold what it has put there.
  if (code != 0 || !may_take_ || result.type_index < kTVMFFIStaticObjectBegin) return;
  try {
    KeepCodeOfArgument(result.v_obj);
  } catch (const std::bad_alloc&) {
    keep_for_ever();
  }
}

void Crossing::LeaveByException(llvm::function_ref<void()> keep_for_ever) {
  try {
    if (may_change_) {
      Walk walk(Walk::Reach::kAll);
      for (int32_t i = 0; i < count_; ++i) {
        if (TVMFFIObject* object = ObjectOf(arguments_[i])) walk.Visit(object, false);
      }
      if (walk.met_opaque()) keep_for_ever();
    }
    if (Given* given = GivenOf(record_)) {
      given->KeepCode(given->version == given_version_ ? given_before_ : 0, keep_for_ever);
    }
  } catch (const std::bad_alloc&) {
    keep_for_ever();
  }
}

void Crossing::NoteGiven(const TVMFFIAny& value) {
  if (value.type_index < kTVMFFIStaticObjectBegin) return;
  if (value.type_index == kTVMFFIFunction) return Watch(value.v_obj);
  if (!CanHoldObjects(value.type_index)) return;
  Walk walk(Walk::Reach::kAll);
  walk.Visit(value.v_obj, false);
  ThreadRecord* record = CallScope::RecordOfThisThread();
  if (!walk.met_mutable() || !record) return;
  if (record->depth.load(std::memory_order_relaxed) == 0 && record->crossings == 0) return;
  if (!record->given) record->given = new Given;
  GivenOf(*record)->Add(value.v_obj);
}

void Crossing::LeaveOutermost(ThreadRecord& record, llvm::function_ref<void()> keep_for_ever) {
  Given* given = GivenOf(record);
  std::unique_ptr<Given> owner(record.crossings == 0 ? given : nullptr);
  if (owner) record.given = nullptr;
  given->KeepCode(0, keep_for_ever);
}

int RaiseOutOfMemory() {
  try {
    ffi::detail::SetSafeCallRaised(OutOfMemory());
  } catch (const std::bad_alloc&) {
    ffi::detail::SetSafeCallRaised(*spare_error);
  }
  return -1;
}

void PrepareOutOfMemory() {
  if (!spare_error) spare_error = new ffi::Error(OutOfMemory());
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
    Walk(Walk::Reach::kOwn).Visit(static_cast<TVMFFIObject*>(error), true);
    TVMFFIErrorSetRaised(error);
  } catch (const std::bad_alloc&) {
    code = RaiseOutOfMemory();
  }
  TVMFFIObjectDecRef(error);
  return code;
}

}  // namespace object_loader
