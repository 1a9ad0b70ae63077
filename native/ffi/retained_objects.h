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

#include <tvm/ffi/c_api.h>

namespace object_loader {

struct LoadedCode;

// Makes the objects that `value` leads to keep their code. For use by the one who owns `value`.
// Throws std::bad_alloc.
void KeepCodeOf(const TVMFFIAny& value);
// The same for what loaded code passes on, and for all that can be reached from there; functions of
// others are watched.
void KeepCodeOfArgument(TVMFFIObject* object);
// As KeepCodeOf for one object that was just made by somebody else and needs `load` nevertheless,
// such as a function of tvm-ffi's around one of loaded code.
void KeepFor(TVMFFIObject* object, LoadedCode* load);

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
