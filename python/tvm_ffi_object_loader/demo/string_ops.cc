// SPDX-License-Identifier: Apache-2.0
// Strings and arrays of strings, for the demo and the examples.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <string>

namespace {

namespace ffi = tvm::ffi;

ffi::String Concat(const ffi::String& a, const ffi::String& b) { return a + b; }

ffi::String Join(const ffi::Array<ffi::String>& parts, const ffi::String& separator) {
  std::string joined;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i != 0) joined += separator;
    joined += parts[i];
  }
  return joined;
}

ffi::String Repeat(const ffi::String& text, int64_t times) {
  std::string repeated;
  for (int64_t i = 0; i < times; ++i) repeated += text;
  return repeated;
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(string_concat, Concat);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(string_join, Join);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(string_repeat, Repeat);
