// SPDX-License-Identifier: Apache-2.0
//
// Objects that loaded code made: the code stays in memory for as long as they live.
//
// An object is destroyed by a function of the code that made it, and a function object is called
// through one. So an object that leaves loaded code has such pointers replaced, by trampolines that
// call the original ones, and is counted as a use of the code until it is gone. Objects leave:
//  * as results and errors of calls, with all that they hold;
//  * in what calls are given: mutable containers and fields of objects, at any depth;
//  * as arguments of functions that loaded code calls. For that the functions that it is given, or
//    gets from tvm-ffi, are watched: their pointers are replaced as well;
//  * through tvm-ffi's C interface (registration.h).
//
// Concurrency: every function may be called from any thread; no lock is held while loaded code
// runs.
#ifndef OBJECT_LOADER_FFI_RETAINED_OBJECTS_H_
#define OBJECT_LOADER_FFI_RETAINED_OBJECTS_H_

#include <llvm/ADT/STLFunctionalExtras.h>
#include <tvm/ffi/c_api.h>

#include <cstddef>

#include "ffi/children.h"
#include "session/call_gate.h"
#include "session/code_lifetime.h"
#include "session/trampolines.h"

namespace object_loader {

// Makes the objects that `value` leads to keep their code. For use by the one who owns `value`.
// Throws std::bad_alloc.
void KeepCodeOf(const TVMFFIAny& value);
// The same for what loaded code passes on, and for all that can be reached from there; functions of
// others are watched.
void KeepCodeOfArgument(TVMFFIObject* object);
// As KeepCodeOf for one object that was just made by somebody else and needs `load` nevertheless,
// such as a function of tvm-ffi's around one of loaded code.
void KeepFor(TVMFFIObject* object, CodeLifetime::Loaded* load);
// Watches a function that is handed to loaded code; other objects are left alone.
void Watch(TVMFFIObject* object);

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

// One call of loaded code, or of somebody else's by loaded code.
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

// Raises a MemoryError in this thread; returns what a function of tvm-ffi's calling convention then
// does.
int RaiseOutOfMemory();
void PrepareOutOfMemory();

// The same as KeepCodeOf for what a call that returned `code` left, its result or the error that it
// has raised. Returns what is to be returned in the place of `code`: where there is no memory, the
// result or the error is dropped for a MemoryError.
int KeepCodeOfResult(TVMFFIAny& result);
int KeepCodeOfRaisedError(int code);
inline int KeepCodeOfOutcome(int code, TVMFFIAny& result) {
  if (__builtin_expect(code != 0, false)) return KeepCodeOfRaisedError(code);
  if (__builtin_expect(result.type_index < kTVMFFIStaticObjectBegin, true)) return 0;
  return KeepCodeOfResult(result);
}

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_RETAINED_OBJECTS_H_
