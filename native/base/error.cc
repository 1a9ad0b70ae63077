// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <llvm/Demangle/Demangle.h>
#include <llvm/Support/Error.h>

namespace object_loader {

namespace {

std::string WithoutNulls(const std::string& message) {
  std::string shown;
  for (char each : message) shown += each == '\0' ? std::string("\\0") : std::string(1, each);
  return shown;
}

}  // namespace

ObjectLoaderError::ObjectLoaderError(const std::string& message)
    : std::runtime_error(message.find('\0') == std::string::npos ? message
                                                                 : WithoutNulls(message)) {}

void ThrowDuplicates(const std::map<std::string, std::string>& duplicates) {
  constexpr size_t kMost = 8;
  std::string text;
  std::vector<std::string> symbols;
  for (const auto& [symbol, message] : duplicates) {
    if (symbols.size() < kMost) text += (text.empty() ? "" : "\n") + message;
    symbols.push_back(symbol);
  }
  if (symbols.size() > kMost) {
    text += "\nand " + std::to_string(symbols.size() - kMost) + " more (see the error's symbols)";
  }
  throw DuplicateSymbolError(text, std::move(symbols));
}

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
