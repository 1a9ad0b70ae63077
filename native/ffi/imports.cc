// SPDX-License-Identifier: Apache-2.0
#include "ffi/imports.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/memory.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace object_loader {

namespace ffi = tvm::ffi;

namespace {

// The library binary of loaded code: a 64-bit length, then that many bytes of little-endian 64-bit
// counts and numbers, and of strings with their length before them (tvm/ffi, library modules).
class BinaryReader {
 public:
  explicit BinaryReader(const char* binary) : position_(binary + sizeof(uint64_t)) {
    std::memcpy(&left_, binary, sizeof(left_));
  }

  uint64_t Number() {
    uint64_t value;
    std::memcpy(&value, Take(sizeof(value)), sizeof(value));
    return value;
  }

  std::vector<uint64_t> Numbers() {
    std::vector<uint64_t> values(CheckCount(Number(), sizeof(uint64_t)));
    for (uint64_t& value : values) value = Number();
    return values;
  }

  std::string_view String() {
    uint64_t size = CheckCount(Number(), 1);
    return {Take(size), size};
  }

 private:
  uint64_t CheckCount(uint64_t count, uint64_t size) {
    if (count > left_ / size) Fail();
    return count;
  }

  const char* Take(uint64_t size) {
    if (size > left_) Fail();
    left_ -= size;
    return std::exchange(position_, position_ + size);
  }

  [[noreturn]] static void Fail() {
    TVM_FFI_THROW(RuntimeError) << ffi::symbol::tvm_ffi_library_bin << " is malformed";
    TVM_FFI_UNREACHABLE();
  }

  const char* position_;
  uint64_t left_;
};

// Bytes where they were loaded to: parts can be as large as the weights of a network. They keep the
// code loaded, since they lie in its memory.
class LoadedBytesObj : public ffi::detail::BytesObj {
 public:
  LoadedBytesObj(std::string_view bytes, std::shared_ptr<void> code) : code_(std::move(code)) {
    data = bytes.data();
    size = bytes.size();
  }

 private:
  std::shared_ptr<void> code_;
};

ffi::Module LoadFromBytes(std::string_view kind, std::string_view bytes,
                          const std::shared_ptr<void>& code) {
  std::string loader = "ffi.Module.load_from_bytes." + std::string(kind);
  auto load = ffi::Function::GetGlobal(loader);
  if (!load.has_value()) {
    TVM_FFI_THROW(RuntimeError) << "the object embeds a module of kind `" << kind
                                << "`, but no loader for it is registered: import the package "
                                << "that registers the global function " << loader;
  }
  ffi::ObjectPtr<LoadedBytesObj> object = ffi::make_object<LoadedBytesObj>(bytes, code);
  TVMFFIAny argument = {};
  argument.type_index = kTVMFFIBytes;
  argument.v_obj = ffi::detail::ObjectUnsafe::TVMFFIObjectPtrFromObjectPtr(object);
  ffi::AnyView view = ffi::AnyView::CopyFromTVMFFIAny(argument);
  ffi::Any module;
  load->CallPacked(&view, 1, &module);
  return std::move(module).cast<ffi::Module>();
}

}  // namespace

ffi::Module BuildImports(const char* binary, const ffi::Module& library, bool library_has_its_own,
                         const std::shared_ptr<void>& code) {
  BinaryReader reader(binary);
  std::vector<uint64_t> indptr = reader.Numbers();
  std::vector<uint64_t> child_indices = reader.Numbers();
  // Checked beforehand: the library is not to be left with some of its imports.
  auto names_no_module = [&](uint64_t child) { return child >= indptr.size() - 1; };
  if (indptr.size() < 2 || indptr.front() != 0 || !std::is_sorted(indptr.begin(), indptr.end())) {
    TVM_FFI_THROW(RuntimeError) << ffi::symbol::tvm_ffi_library_bin << " is malformed";
  }
  if (indptr.back() != child_indices.size() ||
      std::any_of(child_indices.begin(), child_indices.end(), names_no_module)) {
    TVM_FFI_THROW(RuntimeError) << ffi::symbol::tvm_ffi_library_bin
                                << " names a module that it does not hold";
  }
  std::vector<ffi::Module> modules;
  for (size_t i = 0; i + 1 < indptr.size(); ++i) {
    std::string_view kind = reader.String();
    modules.push_back(kind == "_lib" ? library : LoadFromBytes(kind, reader.String(), code));
  }
  for (size_t i = 0; i < modules.size(); ++i) {
    if (library_has_its_own && modules[i].same_as(library)) continue;
    for (uint64_t child = indptr[i]; child < indptr[i + 1]; ++child) {
      modules[i]->ImportModule(modules[child_indices[child]]);
    }
  }
  return modules.front();
}

}  // namespace object_loader
