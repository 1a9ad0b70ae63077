// SPDX-License-Identifier: Apache-2.0
//
// Walk: from an object to all that it holds, so that what loaded code made keeps its code.
#ifndef OBJECT_LOADER_FFI_WALK_H_
#define OBJECT_LOADER_FFI_WALK_H_

#include <tvm/ffi/object.h>

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <unordered_set>
#include <utility>
#include <vector>

#include "ffi/children.h"
#include "session/trampolines.h"

namespace object_loader {

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

  // `is_owned`: by the caller alone, if it has the one reference that there is. Throws
  // std::bad_alloc.
  void Visit(TVMFFIObject* object, bool is_owned);
  // As if the object's deleter were in the code. Throws std::bad_alloc.
  void Keep(TVMFFIObject* object, LoadedCode* load);

  // Whether anything was met that can be changed.
  bool met_mutable() const { return met_mutable_; }
  // Whether anything was met whose memory may be loaded code's, which does not show.
  bool met_opaque() const { return met_mutable_dict_ && !IsMapLayoutKnown(); }

 private:
  void Meet(TVMFFIObject* object, bool is_lasting, bool may_be_only_here);
  // Whether the object is loaded code's, and was not kept before.
  bool Keep(TVMFFIObject* object, bool may_be_only_here, bool& is_only_here);
  bool Keep(TVMFFIObject* object, void* original, const Trampoline& trampoline, bool is_only_here);
  // A map's table may be of another map, of loaded code, whose entries it took over.
  void KeepDataOf(TVMFFIObject* dict);
  // Uses are counted before they begin, for several objects at a time.
  void AddUse(LoadedCode* load);
  void EndSpareUses() {
    if (spare_uses_ != 0) load_->EndUses(std::exchange(spare_uses_, 0));
  }

  const Reach reach_;
  // Most walks end without the heap.
  alignas(std::max_align_t) char memory_[768];
  std::pmr::monotonic_buffer_resource allocator_{memory_, sizeof(memory_)};
  std::pmr::vector<std::pair<TVMFFIObject*, bool>> waiting_{&allocator_};
  std::pmr::unordered_set<const TVMFFIObject*> visited_{&allocator_};
  std::pmr::vector<tvm::ffi::ObjectPtr<tvm::ffi::Object>> held_{&allocator_};
  LoadedCode* load_ = nullptr;
  uint64_t spare_uses_ = 0;
  int64_t expected_ = 0;
  bool met_mutable_ = false;
  bool met_mutable_dict_ = false;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_WALK_H_
