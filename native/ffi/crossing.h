// SPDX-License-Identifier: Apache-2.0
//
// Crossing: one call of loaded code, or of somebody else's by loaded code. What goes over with it
// is retained (retained_objects.h), and watched (watched_functions.h).
#ifndef OBJECT_LOADER_FFI_CROSSING_H_
#define OBJECT_LOADER_FFI_CROSSING_H_

#include <llvm/ADT/STLFunctionalExtras.h>
#include <tvm/ffi/c_api.h>

#include <cstddef>
#include <cstdint>

#include "ffi/children.h"
#include "session/call_gate.h"
#include "session/trampolines.h"

namespace object_loader {

// Whether the object's deleter may be loaded code's.
inline bool MayBeOfLoadedCode(const TVMFFIObject* object) {
  return !Trampolines::IsKnownForeign(FunctionIn(object->deleter));
}

// Whether a Crossing has anything to do with what an array holds, which nobody can change.
bool ArrayLeadsToObjects(TVMFFIObject* array, int depth);

// Whether a Crossing has anything to do with these. They lie in `depth` arrays.
inline bool LeadToObjects(const TVMFFIAny* values, int64_t count, int depth = 0) {
  for (int64_t i = 0; i < count; ++i) {
    int32_t type = values[i].type_index;
    if (type < kTVMFFIStaticObjectBegin) {
      if (type == kTVMFFIObjectRValueRef) return true;
      continue;
    }
    if (MayBeOfLoadedCode(values[i].v_obj) || type == kTVMFFIFunction) return true;
    if (!CanHoldObjects(type)) continue;
    if (type != kTVMFFIArray || ArrayLeadsToObjects(values[i].v_obj, depth + 1)) return true;
  }
  return false;
}

class Crossing {
 public:
  // What the callee is given is kept, and watched. `gates`: how many of the gates that this thread
  // has passed are this call's own. Throws std::bad_alloc.
  Crossing(const TVMFFIAny* arguments, int32_t count, uint32_t gates);
  ~Crossing();
  Crossing(const Crossing&) = delete;
  Crossing& operator=(const Crossing&) = delete;

  // The callee is loaded code, and has returned `code`: what it has handed out otherwise than as
  // its result or error keeps the code. Where that can't be told, or there is no memory for it,
  // `keep_for_ever` is called, since it can't be taken back. The error that was raised stays so.
  void Leave(int code, const TVMFFIAny& result, llvm::function_ref<void()> keep_for_ever);
  // The same for one that has thrown an exception.
  void LeaveByException(llvm::function_ref<void()> keep_for_ever);

  // What loaded code gets as a result is watched, and looked at when this thread's calls of loaded
  // code return. Throws std::bad_alloc.
  static void NoteGiven(const TVMFFIAny& value);
  // This thread's outermost call has returned, which had no Crossing. Throws std::bad_alloc.
  static void LeaveOutermost(ThreadRecord& record, llvm::function_ref<void()> keep_for_ever);

 private:
  const TVMFFIAny* arguments_;
  const int32_t count_;
  const uint32_t gates_;
  bool may_change_ = false;  // something among the arguments
  bool may_take_ = false;    // there are arguments that become the callee's own
  ThreadRecord& record_;
  size_t given_before_ = 0;
  uint64_t given_version_ = 0;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_CROSSING_H_
