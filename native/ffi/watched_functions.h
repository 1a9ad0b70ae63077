// SPDX-License-Identifier: Apache-2.0
//
// Functions whose calls and destruction go through trampolines: those that loaded code is handed,
// and those that it hands out.
#ifndef OBJECT_LOADER_FFI_WATCHED_FUNCTIONS_H_
#define OBJECT_LOADER_FFI_WATCHED_FUNCTIONS_H_

#include <tvm/ffi/c_api.h>

#include "session/trampolines.h"

namespace object_loader {

// Watches a function that is handed to loaded code; other objects are left alone.
void Watch(TVMFFIObject* object);

// Replaces what calls the function object, which needs `load`. Throws std::bad_alloc.
void WatchCalls(TVMFFIObject* function, LoadedCode* load);

// What loaded code's trampolines are for.
void* DeleterOfObjects();
void* DeleterOfData();  // of maps' tables
void* CallOfFunctions();

inline Trampolines& AllTrampolines() {
  static Trampolines& trampolines = Trampolines::OfProcess();
  return trampolines;
}

// Replaces a function of the object's, unless another thread was faster.
template <typename Function>
bool Replace(Function*& place, void* original, const Trampoline& trampoline) {
  return __atomic_compare_exchange_n(&reinterpret_cast<void*&>(place), &original, trampoline.code,
                                     false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_WATCHED_FUNCTIONS_H_
