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

// The handlers of loaded code's trampolines.
void DeleteObject(void* object, int flags, void*, void*, Trampoline* self);
void DeleteData(void* data, void*, void*, void*, Trampoline* self);  // of maps' tables
int CallFunction(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result,
                 Trampoline* trampoline);

template <typename Handler>
void* Address(Handler* handler) {
  return reinterpret_cast<void*>(handler);
}

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
