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
#ifndef OBJECT_LOADER_FFI_OBJECTS_H_
#define OBJECT_LOADER_FFI_OBJECTS_H_

#include <tvm/ffi/c_api.h>

namespace object_loader {

// Makes the objects that `value` leads to keep their code. For use by the one who owns `value`.
void KeepCodeOfObjects(const TVMFFIAny& value);
inline void KeepCodeOf(const TVMFFIAny& value) {
  if (__builtin_expect(value.type_index >= kTVMFFIStaticObjectBegin, false)) {
    KeepCodeOfObjects(value);
  }
}
// The same for the error that this thread has raised.
void KeepCodeOfRaisedError();

// Loaded code that hands objects, or functions for them, to tvm-ffi itself calls functions of this
// file instead.
void WatchObjectRegistration();

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_OBJECTS_H_
