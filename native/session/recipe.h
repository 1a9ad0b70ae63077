// SPDX-License-Identifier: Apache-2.0
//
// Recipe: what it takes to make a dylib again, in another process say: what was loaded into it and
// into all dylibs that it links to, each as it is now.
#ifndef OBJECT_LOADER_SESSION_RECIPE_H_
#define OBJECT_LOADER_SESSION_RECIPE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "session/dylib.h"

namespace object_loader {

// One of the dylibs.
struct RecipePart {
  std::string name;
  // The place of another part, which comes before this one, or the path of a shared library.
  std::vector<std::variant<size_t, std::string>> link_order;
  Dylib::Sources sources;
};

// The dylib comes last.
std::vector<RecipePart> RecipeOf(Dylib& dylib);

// The versions of the parts, in their order: while they are the same, so is the recipe.
std::vector<uint64_t> VersionsOf(Dylib& dylib);

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_RECIPE_H_
