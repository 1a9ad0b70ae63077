// SPDX-License-Identifier: Apache-2.0
#include "session/recipe.h"

#include <llvm/ADT/STLFunctionalExtras.h>

#include <map>
#include <memory>
#include <utility>

namespace object_loader {

namespace {

// A dylib on the way to it, and how many entries of its link order have been looked at. A chain of
// them can be longer than the stack.
struct Step {
  Dylib* dylib;
  std::vector<Link> link_order;
  size_t next = 0;
};

using Places = std::map<const Dylib*, size_t>;

// Calls `visit` once for each dylib, after those in its link order, which it gets, too.
void Visit(Dylib& dylib,
           llvm::function_ref<void(Dylib&, const std::vector<Link>&, const Places&)> visit) {
  Places places;
  // Link orders hold the dylibs in them.
  std::vector<std::vector<Link>> visited;
  std::vector<Step> steps;
  steps.push_back({&dylib, dylib.link_order()});
  while (!steps.empty()) {
    Step& step = steps.back();
    if (step.next < step.link_order.size()) {
      Dylib* next = step.link_order[step.next++].dylib.get();
      if (next && !places.count(next)) steps.push_back({next, next->link_order()});
      continue;
    }
    visit(*step.dylib, step.link_order, places);
    places.emplace(step.dylib, places.size());
    visited.push_back(std::move(step.link_order));
    steps.pop_back();
  }
}

}  // namespace

std::vector<RecipePart> RecipeOf(Dylib& dylib) {
  std::vector<RecipePart> parts;
  Visit(dylib, [&](Dylib& each, const std::vector<Link>& link_order, const Places& places) {
    RecipePart part;
    part.name = each.name();
    for (const Link& link : link_order) {
      if (link.dylib) {
        part.link_order.emplace_back(places.at(link.dylib.get()));
      } else {
        part.link_order.emplace_back(link.library->location());
      }
    }
    part.sources = each.sources();
    parts.push_back(std::move(part));
  });
  return parts;
}

std::vector<uint64_t> VersionsOf(Dylib& dylib) {
  std::vector<uint64_t> versions;
  Visit(dylib, [&](Dylib& each, const std::vector<Link>&, const Places&) {
    versions.push_back(each.version());
  });
  return versions;
}

}  // namespace object_loader
