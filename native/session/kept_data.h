// SPDX-License-Identifier: Apache-2.0
//
// KeepData: variables of a dylib whose values its next version goes on with.
#ifndef OBJECT_LOADER_SESSION_KEPT_DATA_H_
#define OBJECT_LOADER_SESSION_KEPT_DATA_H_

#include <optional>
#include <string>
#include <vector>

#include "session/dylib.h"

namespace object_loader {

// Which variables keep their values: by the names of their symbols, or all for which that is safe.
struct KeptData {
  bool all = false;
  std::vector<std::string> names;
};

// Copies the values to the variables of the same name and size, whose initializers have run.
//
// Bytes are copied, so what refers to the version that goes must not be: variables with pointers
// into its code or data, and objects with destructors, which would run twice. Of `all`, such ones
// stay as the next version has made them; where they are named, that is a LinkError that names all
// of them. Throws std::bad_alloc.
void KeepData(const KeptData& kept, Dylib& before, Dylib& next);

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_KEPT_DATA_H_
