// SPDX-License-Identifier: Apache-2.0
#include "error.h"

#include <llvm/Demangle/Demangle.h>
#include <llvm/Support/Error.h>

namespace object_loader {

std::string Message(llvm::Error error) {
  std::string text;
  llvm::handleAllErrors(std::move(error), [&](const llvm::ErrorInfoBase& info) {
    if (!text.empty()) text += "; ";
    text += info.message();
  });
  return text;
}

std::string Demangled(const std::string& symbol) {
  std::string readable = llvm::demangle(symbol);
  return readable == symbol ? symbol : readable + " [" + symbol + "]";
}

}  // namespace object_loader
