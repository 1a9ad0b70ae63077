// SPDX-License-Identifier: Apache-2.0
#include "session/locations.h"

#include <llvm/ADT/StringExtras.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "os/call_stack.h"
#include "session/code_map.h"
#include "session/dylib.h"

namespace object_loader {

std::optional<Location> Locate(uint64_t address, bool with_line, const Session* only) {
  std::optional<Location> location;
  std::shared_ptr<SourceLines> lines;
  CodeMap::OfProcess().Visit(address, [&](CodeOwner& owner) {
    const auto& load = static_cast<const LoadedCode&>(owner);
    const Session* session = load.dylib.session().get();
    if (only && session != only) return;
    location = Location{session->name(),       load.dylib.name(), load.ObjectOf(address),
                        load.image.code.begin, std::nullopt,      load.SymbolAt(address)};
    lines = load.image.lines;
  });
  // It may take long, so no lock is held.
  if (with_line && lines) location->line = lines->At(address);
  return location;
}

namespace {

// As dladdr. The texts are there for as long as the code is.
int FindAddress(const void* address, LibraryAddress* result) {
  try {
    auto location = Locate(reinterpret_cast<uintptr_t>(address), /*with_line=*/false);
    if (!location) return FindLibraryAddress(address, result);
    *result = {(*location->object).data(), reinterpret_cast<void*>(location->code), nullptr,
               nullptr};
    if (location->symbol) {
      result->symbol = (*location->symbol->name).data();
      result->symbol_address = reinterpret_cast<void*>(location->symbol->address);
    }
    return 1;
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

// "file(function+0x12) [0x7f…]", as the C library writes it.
std::string Describe(const void* address) {
  auto number = reinterpret_cast<uintptr_t>(address);
  auto hex = [](uint64_t value) { return "0x" + llvm::utohexstr(value, /*LowerCase=*/true); };
  auto location = Locate(number, /*with_line=*/false);
  if (!location) return DescribeLibraryAddress(address);
  std::string text = (*location->object).str() + "(";
  const auto& symbol = location->symbol;
  text += symbol ? (*symbol->name).str() + "+" + hex(number - symbol->address)
                 : "+" + hex(number - location->code);
  return text + ") [" + hex(number) + "]";
}

std::vector<std::string> DescribeAll(void* const* addresses, int count) {
  std::vector<std::string> lines;
  for (int i = 0; i < count; ++i) lines.push_back(Describe(addresses[i]));
  return lines;
}

// As backtrace_symbols: pointers, and behind them the texts, in one piece of memory.
char** BacktraceSymbols(void* const* addresses, int count) {
  try {
    std::vector<std::string> lines = DescribeAll(addresses, count);
    size_t pointers = lines.size() * sizeof(char*);
    size_t size = pointers + 1;
    for (const std::string& line : lines) size += line.size() + 1;
    auto** result = static_cast<char**>(std::malloc(size));
    if (!result) return nullptr;
    char* text = reinterpret_cast<char*>(result) + pointers;
    for (size_t i = 0; i < lines.size(); ++i) {
      result[i] = text;
      std::memcpy(text, lines[i].c_str(), lines[i].size() + 1);
      text += lines[i].size() + 1;
    }
    return result;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void BacktraceSymbolsTo(void* const* addresses, int count, int file) {
  try {
    for (const std::string& line : DescribeAll(addresses, count)) WriteLine(file, line);
  } catch (const std::bad_alloc&) {
  }
}

}  // namespace

std::map<std::string, void*> LocationFunctions() {
  return {{"dladdr", reinterpret_cast<void*>(FindAddress)},
          {"backtrace_symbols", reinterpret_cast<void*>(BacktraceSymbols)},
          {"backtrace_symbols_fd", reinterpret_cast<void*>(BacktraceSymbolsTo)}};
}

}  // namespace object_loader
