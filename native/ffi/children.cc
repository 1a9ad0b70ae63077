// SPDX-License-Identifier: Apache-2.0
#include "ffi/children.h"

#include <tvm/ffi/container/map_base.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/object.h>

#include <vector>

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

using Visit = llvm::function_ref<void(TVMFFIObject*, bool)>;

struct MapFields : ffi::MapBaseObj {
  using MapBaseObj::data_;
  using MapBaseObj::data_deleter_;
  using MapBaseObj::slots_;
  static bool IsSmall(const MapFields& map) { return (map.slots_ & kSmallTagMask) != 0; }
  static uint64_t Slots(const MapFields& map) { return map.slots_ & ~kSmallTagMask; }
};

struct Place : ffi::MapBaseObj::iterator {
  explicit Place(const iterator& place) : iterator(place) {}
  uint64_t number() const { return index; }
};

MapFields* MapOf(TVMFFIObject* object) {
  return static_cast<MapFields*>(
      ffi::detail::ObjectUnsafe::RawObjectPtrFromUnowned<ffi::MapBaseObj>(object));
}

// Whether a map of these whole numbers, which tvm-ffi's library made, is where it is expected. No
// more is read of it than what was found to be so far.
bool IsAsExpected(const MapFields& map, int64_t count) {
  if (map.size() != static_cast<uint64_t>(count)) return false;
  uint64_t slots = MapFields::Slots(map);
  if (!map.data_ || slots < map.size() || slots > 16 * map.size() + 16) return false;
  int64_t number = 0;
  for (auto place = map.begin(); place != map.end(); ++place, ++number) {
    if (number == count || Place(place).number() >= slots) return false;
    auto& [key, value] = *place;
    if (key.type_index() != kTVMFFIInt || value.type_index() != kTVMFFIInt) return false;
    if (key.cast<int64_t>() != number || value.cast<int64_t>() != 3 * number + 1) return false;
  }
  return number == count;
}

// Both layouts, one without and one with a table, at several sizes.
bool TryMapLayout() {
  for (const char* maker : {"ffi.Map", "ffi.Dict"}) {
    std::optional<ffi::Function> make = ffi::Function::GetGlobal(maker);
    if (!make) continue;
    for (int64_t count : {1, 3, 4, 5, 16, 17, 100}) {
      std::vector<ffi::AnyView> entries;
      for (int64_t i = 0; i < count; ++i) entries.insert(entries.end(), {i, 3 * i + 1});
      ffi::Any made;
      make->CallPacked(entries.data(), static_cast<int32_t>(entries.size()), &made);
      if (!IsAsExpected(*MapOf(ffi::AnyView(made).CopyToTVMFFIAny().v_obj), count)) return false;
    }
  }
  return true;
}

void VisitValue(const TVMFFIAny& value, bool is_lasting, Visit visit) {
  if (value.type_index >= kTVMFFIStaticObjectBegin && value.v_obj) visit(value.v_obj, is_lasting);
}

// Through tvm-ffi's own iterator: a function that returns the key, the value, or whether there is a
// next entry.
void VisitMapByFunction(TVMFFIObject* object, Visit visit) {
  const bool is_map = object->type_index == kTVMFFIMap;
  TVMFFIAny map = {};
  map.type_index = object->type_index;
  map.v_obj = object;
  ffi::AnyView argument = ffi::AnyView::CopyFromTVMFFIAny(map);
  auto call = [&](const char* name) {
    ffi::Any result;
    ffi::Function::GetGlobalRequired(name).CallPacked(&argument, 1, &result);
    return result;
  };
  if (call(is_map ? "ffi.MapSize" : "ffi.DictSize").cast<int64_t>() == 0) return;
  auto iterator = call(is_map ? "ffi.MapForwardIterFunctor" : "ffi.DictForwardIterFunctor")
                      .cast<ffi::Function>();
  do {
    for (int part : {0, 1}) {
      ffi::Any value = iterator(part);
      VisitValue(ffi::AnyView(value).CopyToTVMFFIAny(), true, visit);
    }
  } while (iterator(2).cast<bool>());
}

void VisitMap(TVMFFIObject* object, Visit visit) {
  if (!IsMapLayoutKnown()) return VisitMapByFunction(object, visit);
  for (auto& [key, value] : *MapOf(object)) {
    VisitValue(ffi::AnyView(key).CopyToTVMFFIAny(), true, visit);
    VisitValue(ffi::AnyView(value).CopyToTVMFFIAny(), true, visit);
  }
}

// The fields that a class has told tvm-ffi of.
void VisitFields(TVMFFIObject* object, Visit visit) {
  const TVMFFITypeInfo* type = TVMFFIGetTypeInfo(object->type_index);
  if (!type) return;
  auto visit_fields = [&](const TVMFFITypeInfo& info) {
    for (int i = 0; i < info.num_fields; ++i) {
      const TVMFFIFieldInfo& field = info.fields[i];
      TVMFFIAny value = {};
      if (field.getter(reinterpret_cast<char*>(object) + field.offset, &value) != 0) {
        TVMFFIObjectHandle error = nullptr;
        TVMFFIErrorMoveFromRaised(&error);
        if (error) TVMFFIObjectDecRef(error);
        continue;
      }
      if (value.type_index < kTVMFFIStaticObjectBegin) continue;
      auto owned = ffi::detail::ObjectUnsafe::ObjectPtrFromOwned<ffi::Object>(value.v_obj);
      visit(value.v_obj, false);
    }
  };
  for (int i = 1; i < type->type_depth; ++i) visit_fields(*type->type_ancestors[i]);
  visit_fields(*type);
}

}  // namespace

bool IsMapLayoutKnown() {
  static const bool is_known = TryMapLayout();
  return is_known;
}

int64_t CountOfChildren(TVMFFIObject* object) {
  switch (object->type_index) {
    case kTVMFFIArray:
    case kTVMFFIList:
      return CellOf<TVMFFISeqCell>(object)->size;
    case kTVMFFIMap:
    case kTVMFFIDict:
      return IsMapLayoutKnown() ? 2 * static_cast<int64_t>(MapOf(object)->size()) : 0;
    default:
      return 0;
  }
}

void VisitChildren(TVMFFIObject* object, Visit visit) {
  switch (object->type_index) {
    case kTVMFFIArray:
    case kTVMFFIList: {
      auto* sequence = CellOf<TVMFFISeqCell>(object);
      auto* elements = static_cast<const TVMFFIAny*>(sequence->data);
      for (int64_t i = 0; i < sequence->size; ++i) VisitValue(elements[i], true, visit);
      break;
    }
    case kTVMFFIMap:
    case kTVMFFIDict:
      VisitMap(object, visit);
      break;
    case kTVMFFIError: {
      auto* error = CellOf<TVMFFIErrorCell>(object);
      for (void* part : {error->cause_chain, error->extra_context}) {
        if (part) visit(static_cast<TVMFFIObject*>(part), true);
      }
      break;
    }
    default:
      if (object->type_index == kTVMFFIModule || object->type_index >= kTVMFFIDynObjectBegin) {
        VisitFields(object, visit);
      }
  }
}

void** DataDeleterOf(TVMFFIObject* dict) {
  if (!IsMapLayoutKnown()) return nullptr;
  MapFields* map = MapOf(dict);
  return map->data_deleter_ ? reinterpret_cast<void**>(&map->data_deleter_) : nullptr;
}

}  // namespace object_loader
