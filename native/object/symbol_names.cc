// SPDX-License-Identifier: Apache-2.0
#include "object/symbol_names.h"

#include <llvm/ADT/StringExtras.h>

#include <algorithm>
#include <utility>

namespace object_loader {

namespace {

using llvm::StringRef;

// The symbol of function NAME is this and NAME. Names that begin with one of the others are
// tvm-ffi's own (tvm/ffi/extra/module.h).
constexpr char kFunctionPrefix[] = "__tvm_ffi_";
constexpr const char* kReservedNames[] = {"_library_ctx", "_library_bin"};
constexpr const char* kReservedPrefixes[] = {"_metadata_", "_doc_"};

}  // namespace

std::string FunctionSymbol(const std::string& name) { return kFunctionPrefix + name; }

std::optional<StringRef> FunctionName(StringRef symbol) {
  if (!symbol.consume_front(kFunctionPrefix)) return std::nullopt;
  if (symbol.contains('@')) return std::nullopt;  // a certain version of one
  for (const char* reserved : kReservedNames) {
    if (symbol == reserved) return std::nullopt;
  }
  for (const char* prefix : kReservedPrefixes) {
    if (symbol.starts_with(prefix)) return std::nullopt;
  }
  return symbol;
}

std::string Suggestions(std::vector<std::string> names, const std::string& wanted) {
  constexpr size_t kMost = 10;
  std::vector<std::pair<unsigned, std::string>> ranked;
  for (std::string& name : names) {
    ranked.push_back({StringRef(wanted).edit_distance_insensitive(name), std::move(name)});
  }
  std::sort(ranked.begin(), ranked.end());
  std::string text;
  for (size_t i = 0; i < std::min(kMost, ranked.size()); ++i) {
    text += (i ? ", " : "") + ranked[i].second;
  }
  if (ranked.size() > kMost) text += ", … (" + std::to_string(ranked.size() - kMost) + " more)";
  return text;
}

std::string OriginHint(StringRef symbol) {
  // "cudaMalloc" and "__cudaRegisterFatBinary" are, "cuda_add" is somebody's own.
  auto is_of = [](StringRef name, StringRef prefix) {
    return name.consume_front(prefix) && !name.empty() && llvm::isUpper(name.front());
  };
  if (symbol.starts_with("__cudaRegisterLinkedBinary_")) {
    return " (device code that is not linked: load what `nvcc -dlink` makes of all objects "
           "compiled "
           "with -rdc=true together with them)";
  }
  if (is_of(symbol, "cuda") || is_of(symbol, "__cuda")) {
    return " (in libcudart: load it first, ctypes.CDLL(\"libcudart.so\", ctypes.RTLD_GLOBAL))";
  }
  if (is_of(symbol, "cu")) {
    return " (in libcuda, the driver: load it first, ctypes.CDLL(\"libcuda.so.1\", "
           "ctypes.RTLD_GLOBAL))";
  }
  if (symbol.starts_with("GOMP_") || symbol.starts_with("omp_")) {
    return " (in libgomp: load it first, ctypes.CDLL(\"libgomp.so.1\", ctypes.RTLD_GLOBAL))";
  }
  if (symbol.starts_with("__asan_") || symbol.starts_with("__ubsan_") ||
      symbol.starts_with("__tsan_")) {
    return " (in a sanitizer's run time: compile without -fsanitize)";
  }
  if (symbol.starts_with("__bid_")) {
    return " (in libgcc.a: load the file that `gcc -print-libgcc-file-name` names with this "
           "object)";
  }
  return "";
}

}  // namespace object_loader
