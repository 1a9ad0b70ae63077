// SPDX-License-Identifier: Apache-2.0
//
// Where an address of loaded code is, in any session of the process: for those who look from
// outside.
//
// Concurrency: every function may be called from any thread, also while the code is unloaded.
#ifndef OBJECT_LOADER_SESSION_LOCATIONS_H_
#define OBJECT_LOADER_SESSION_LOCATIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "session/loaded_code.h"

namespace object_loader {

class Session;

struct Location {
  std::string session;
  std::string dylib;
  Name object;
  uint64_t code;  // where the load's code begins
  std::optional<SourceLine> line;
  // What has a name there; none in what the loader made itself.
  std::optional<LoadedSymbol> symbol;
};

// Nothing where the address is in no loaded code, or in that of another session than `only`. Throws
// std::bad_alloc.
// `with_line` says whether the line is wanted, which may take long.
std::optional<Location> Locate(uint64_t address, bool with_line, const Session* only = nullptr);

// As the C library's functions of these names, which know nothing of loaded code; by symbol. For
// loaded code to call.
std::map<std::string, void*> LocationFunctions();

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_LOCATIONS_H_
