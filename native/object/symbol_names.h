// SPDX-License-Identifier: Apache-2.0
//
// What the names of symbols say: which of them are TVM-FFI functions, and which one was meant.
#ifndef OBJECT_LOADER_OBJECT_SYMBOL_NAMES_H_
#define OBJECT_LOADER_OBJECT_SYMBOL_NAMES_H_

#include <llvm/ADT/StringRef.h>

#include <optional>
#include <string>
#include <vector>

namespace object_loader {

// The symbol of the TVM-FFI function `name`.
std::string FunctionSymbol(const std::string& name);

// The name of the function whose symbol this is, if it is one's.
std::optional<llvm::StringRef> FunctionName(llvm::StringRef symbol);

// The names as a list for an error message, the ones most like `wanted` first.
std::string Suggestions(std::vector<std::string> names, const std::string& wanted);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_SYMBOL_NAMES_H_
