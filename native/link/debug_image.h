// SPDX-License-Identifier: Apache-2.0
//
// DebugImage: what was loaded, as the file that a linker would have made of it, for debuggers and
// profilers: sections where the memory is, all symbols, unwind tables, and the objects' debug
// information side by side, relocated.
//
// What was not loaded lies at address 0 there, as linkers have it. Debug information that is
// malformed is left out.
//
// Lifetime: owns its bytes. Concurrency: immutable.
#ifndef OBJECT_LOADER_LINK_DEBUG_IMAGE_H_
#define OBJECT_LOADER_LINK_DEBUG_IMAGE_H_

#include <llvm/ADT/StringRef.h>

#include <cstdint>
#include <vector>

#include "link/layout.h"
#include "link/relocator.h"
#include "link/resolution.h"
#include "os/profiler.h"

namespace object_loader {

class DebugImage {
 public:
  // Of what is in memory. Throws what reading the objects throws, and std::bad_alloc.
  DebugImage(const Resolution& resolution, const Layout& layout, const Relocator& relocator,
             const Relocator::Memories& memories);

  llvm::StringRef bytes() const { return {bytes_.data(), bytes_.size()}; }
  // All that have a name and a size, by address: one of those at a place.
  const std::vector<ProfiledFunction>& functions() const { return functions_; }

 private:
  class Writer;

  std::vector<char> bytes_;
  std::vector<ProfiledFunction> functions_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_DEBUG_IMAGE_H_
