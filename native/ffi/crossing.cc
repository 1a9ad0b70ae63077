// SPDX-License-Identifier: Apache-2.0
#include "ffi/crossing.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/object.h>

#include <algorithm>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "ffi/retained_objects.h"
#include "ffi/walk.h"
#include "ffi/watched_functions.h"

namespace object_loader {

namespace ffi = tvm::ffi;

namespace {

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
  // Keeps the code of all from the one of this number on; `keep_for_ever` as in Crossing::Leave.
  // Throws std::bad_alloc.
  void KeepCode(size_t first, llvm::function_ref<void()> keep_for_ever);
};

Given* GivenOf(const ThreadRecord& record) { return static_cast<Given*>(record.given); }

void DropGiven(ThreadRecord& record) {
  delete static_cast<Given*>(std::exchange(record.given, nullptr));
}

}  // namespace

bool ArrayLeadsToObjects(TVMFFIObject* array, int depth) {
  constexpr int kDeepest = 8;
  auto* sequence = CellOf<TVMFFISeqCell>(array);
  return depth > kDeepest ||
         LeadToObjects(static_cast<const TVMFFIAny*>(sequence->data), sequence->size, depth);
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

}  // namespace object_loader
