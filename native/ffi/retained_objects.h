// SPDX-License-Identifier: Apache-2.0
//
// Objects that loaded code made: the code stays in memory for as long as they live.
//
// An object is destroyed by a function of the code that made it, and a function object is called
// through one. So an object that leaves loaded code, as a result or an error, in a container or a
// field of one, or registered with tvm-ffi, has such pointers replaced: by functions that call the
// original ones, and that keep the code until the object is gone.
//
// Concurrency: every function may be called from any thread; no lock is held while loaded code
// runs.
#ifndef OBJECT_LOADER_FFI_RETAINED_OBJECTS_H_
#define OBJECT_LOADER_FFI_RETAINED_OBJECTS_H_

#include <tvm/ffi/c_api.h>

namespace object_loader {

// Makes the objects that `value` leads to keep their code. For use by the one who owns `value`.
// Throws std::bad_alloc.
void KeepCodeOf(const TVMFFIAny& value);

// Raises a MemoryError in this thread; returns what a function of tvm-ffi's calling convention then
// does.
int RaiseOutOfMemory();

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

// Loaded code that hands objects, or functions for them, to tvm-ffi itself calls functions of this
// file instead.
void WatchObjectRegistration();

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_RETAINED_OBJECTS_H_
