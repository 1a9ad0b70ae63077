// SPDX-License-Identifier: Apache-2.0
#include "object/symbol_names.h"

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

}  // namespace object_loader
