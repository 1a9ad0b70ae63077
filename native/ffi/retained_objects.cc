// SPDX-License-Identifier: Apache-2.0
#include "ffi/retained_objects.h"

#include <tvm/ffi/error.h>

#include <new>

#include "ffi/walk.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

ffi::Error OutOfMemory() { return ffi::Error("MemoryError", "out of memory in a call", ""); }
// For when there is no memory for an error.
const ffi::Error* spare_error = nullptr;

}  // namespace

void KeepCodeOf(const TVMFFIAny& value) {
  if (value.type_index < kTVMFFIStaticObjectBegin) return;
  Walk(Walk::Reach::kOwn).Visit(value.v_obj, true);
}

void KeepCodeOfArgument(TVMFFIObject* object) { Walk(Walk::Reach::kAll).Visit(object, false); }

void KeepFor(TVMFFIObject* object, LoadedCode* load) { Walk(Walk::Reach::kOwn).Keep(object, load); }

int RaiseOutOfMemory() {
  try {
    ffi::detail::SetSafeCallRaised(OutOfMemory());
  } catch (const std::bad_alloc&) {
    ffi::detail::SetSafeCallRaised(*spare_error);
  }
  return -1;
}

void PrepareOutOfMemory() {
  if (!spare_error) spare_error = new ffi::Error(OutOfMemory());
}

int KeepCodeOfResult(TVMFFIAny& result) {
  try {
    KeepCodeOf(result);
    return 0;
  } catch (const std::bad_alloc&) {
    TVMFFIObjectDecRef(result.v_obj);
    result = {};
    return RaiseOutOfMemory();
  }
}

int KeepCodeOfRaisedError(int code) {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) return code;
  try {
    Walk(Walk::Reach::kOwn).Visit(static_cast<TVMFFIObject*>(error), true);
    TVMFFIErrorSetRaised(error);
  } catch (const std::bad_alloc&) {
    code = RaiseOutOfMemory();
  }
  TVMFFIObjectDecRef(error);
  return code;
}

}  // namespace object_loader
