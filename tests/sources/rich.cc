// SPDX-License-Identifier: Apache-2.0
// Every kind of argument, result and error that tvm-ffi's C++ interface has, for comparison with dlopen.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <optional>
#include <stdexcept>
#include <string>

namespace ffi = tvm::ffi;

namespace {

int64_t Add(int64_t a, int64_t b) { return a + b; }
double Scale(double x, double factor) { return x * factor; }
bool Negate(bool value) { return !value; }
ffi::String Concat(ffi::String a, ffi::String b) {
  return ffi::String(std::string(a.data(), a.size()) + std::string(b.data(), b.size()));
}
int64_t ByteCount(ffi::Bytes bytes) { return static_cast<int64_t>(bytes.size()); }
ffi::Any Identity(ffi::Any value) { return value; }
ffi::Optional<int64_t> Half(int64_t value) {
  if (value % 2) return std::nullopt;
  return value / 2;
}

ffi::Array<int64_t> Range(int64_t n) {
  ffi::Array<int64_t> result;
  for (int64_t i = 0; i < n; ++i) result.push_back(i);
  return result;
}
int64_t Sum(ffi::Array<int64_t> values) {
  int64_t sum = 0;
  for (int64_t value : values) sum += value;
  return sum;
}
ffi::Map<ffi::String, int64_t> Lengths(ffi::Array<ffi::String> words) {
  ffi::Map<ffi::String, int64_t> result;
  for (const ffi::String& word : words) result.Set(word, static_cast<int64_t>(word.size()));
  return result;
}
int64_t ValueOf(ffi::Map<ffi::String, int64_t> map, ffi::String key) { return map[key]; }

double TensorSum(ffi::TensorView tensor) {
  double sum = 0;
  for (int64_t i = 0; i < tensor.numel(); ++i) sum += static_cast<float*>(tensor.data_ptr())[i];
  return sum;
}

ffi::Any Apply(ffi::Function function, int64_t value) { return function(value); }
ffi::String KindOfError(ffi::Function function, int64_t value) {
  try {
    function(value, value);
  } catch (const ffi::Error& error) {
    return ffi::String(error.kind());
  }
  return ffi::String("no error");
}
ffi::Function Adder(int64_t increment) {
  return ffi::Function::FromTyped([increment](int64_t value) { return value + increment; });
}

void RaiseValueError(int64_t value) { TVM_FFI_THROW(ValueError) << "bad value " << value; }
void RaiseIndexError() { TVM_FFI_THROW(IndexError) << "out of bounds"; }
void RaiseUnknownKind() { TVM_FFI_THROW(SomethingOdd) << "odd"; }
void RaiseStandard() { throw std::runtime_error("a standard exception"); }
ffi::String CatchStandard(ffi::String message) {
  try {
    throw std::out_of_range(message);
  } catch (const std::exception& error) {
    return ffi::String(std::string("caught ") + error.what());
  }
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(add, Add);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(add, "Add two integers.");
TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, Scale);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(negate, Negate);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(concat, Concat);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(byte_count, ByteCount);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(identity, Identity);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(half, Half);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(range, Range);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(sum, Sum);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(lengths, Lengths);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(value_of, ValueOf);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(tensor_sum, TensorSum);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(apply, Apply);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(kind_of_error, KindOfError);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(adder, Adder);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raise_value_error, RaiseValueError);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raise_index_error, RaiseIndexError);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raise_unknown_kind, RaiseUnknownKind);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raise_standard, RaiseStandard);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(catch_standard, CatchStandard);
