// SPDX-License-Identifier: Apache-2.0
//
// GraphBuilder: all objects of a load as one JITLink LinkGraph of a few blocks: code, constants,
// data and zeros. What they hold is decided by the Layout and the Tables, and written by the
// Relocator when JITLink has found memory for them.
//
// Lifetime: refers to the Resolution and the Liveness; the graph refers to the builder's blocks
// only by their sizes. Concurrency: for one thread at a time.
#ifndef OBJECT_LOADER_LINK_GRAPH_BUILDER_H_
#define OBJECT_LOADER_LINK_GRAPH_BUILDER_H_

#include <llvm/ExecutionEngine/JITLink/JITLink.h>

#include <array>
#include <memory>

#include "link/debug_image.h"
#include "link/image.h"
#include "link/layout.h"
#include "link/liveness.h"
#include "link/relocator.h"
#include "link/resolution.h"
#include "link/tables.h"
#include "link/thread_locals.h"

namespace object_loader {

class GraphBuilder {
 public:
  // For a resolution whose references are all bound. Throws LinkError. `stay_high`: below 2 GiB
  // only where it has to be.
  GraphBuilder(Resolution& resolution, Liveness& liveness, bool stay_high);
  GraphBuilder(const GraphBuilder&) = delete;
  GraphBuilder& operator=(const GraphBuilder&) = delete;

  const std::string& name() const { return resolution_.name(); }
  // Whether the memory has to lie below 2 GiB, or might as well.
  bool is_low() const { return must_be_low() || (!stay_high_ && tables_.may_be_low()); }
  bool must_be_low() const { return tables_.must_be_low(); }

  // Once. The blocks have no content until Write.
  std::unique_ptr<llvm::jitlink::LinkGraph> Build(
      std::shared_ptr<llvm::orc::SymbolStringPool> names);
  // Writes the content, when the graph's blocks have addresses and memory. See Relocator::Write.
  void Write();
  // After that: what there is for debuggers.
  DebugImage MakeDebugImage() const {
    return DebugImage(resolution_, layout_, relocator_, memories_);
  }
  // And what there is to run, and where things are; `definitions` are globals.
  void Collect(Image& image, const std::vector<uint32_t>& definitions) const;

 private:
  // Throws LinkError where the memory lies too high for code that names it by 32-bit addresses.
  void CheckLow() const;
  char* Written(Layout::Place place) const { return memories_[place.area].writable + place.offset; }
  void CollectFunctions(FunctionArray::Kind kind,
                        std::vector<std::pair<int, void*>>& functions) const;
  // Not inlined: bench/callgrind.py counts what is done in it.
  __attribute__((noinline)) void CollectNames(Image& image,
                                              const std::vector<uint32_t>& definitions) const;
  void CollectLocalFunctions(Image& image) const;
  void CollectExtents(Image& image, const std::vector<uint32_t>& definitions) const;
  void CollectObjects(Image& image) const;
  // From where the code begins, which is before everything else.
  uint32_t OffsetOf(uint64_t address) const {
    return static_cast<uint32_t>(address - memories_[Layout::kCode].address);
  }
  uint64_t AddressOf(Layout::Area area, uint64_t offset) const {
    return memories_[area].address + offset;
  }

  Resolution& resolution_;
  const bool stay_high_;
  Layout layout_;
  ThreadLocals thread_locals_;
  Tables tables_;
  Relocator relocator_;
  std::array<llvm::jitlink::Block*, Layout::kAreaCount> blocks_ = {};
  Relocator::Memories memories_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_GRAPH_BUILDER_H_
