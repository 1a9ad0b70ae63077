// SPDX-License-Identifier: Apache-2.0
#include "eh_frame.h"

#include <algorithm>
#include <vector>

namespace object_loader {

namespace {

using llvm::jitlink::Block;
using llvm::jitlink::LinkGraph;
using llvm::jitlink::Section;
using llvm::orc::ExecutorAddr;

constexpr char kEHFrame[] = ".eh_frame";
constexpr char kWholeEHFrame[] = "$eh_frame";
constexpr char kEndMark[4] = {};

Section* FindEHFrame(LinkGraph& graph) {
  Section* whole = graph.findSectionByName(kWholeEHFrame);
  return whole ? whole : graph.findSectionByName(kEHFrame);
}

}  // namespace

void KeepEHFrameWhole(LinkGraph& graph) {
  Section* section = graph.findSectionByName(kEHFrame);
  if (!section) return;
  Section& whole = graph.createSection(kWholeEHFrame, section->getMemProt());
  // JITLink puts a new section in the place that the number of sections tells. With one removed,
  // the next one made shares the place of the last, which is therefore one that stays empty. Remove
  // with places that are counted otherwise (LinkGraph::createSection).
  graph.createSection("$spare", section->getMemProt());
  graph.mergeSections(whole, *section);
  // The last address there is, so that nothing comes after it.
  graph.createContentBlock(whole, kEndMark, ExecutorAddr(~uint64_t{sizeof(kEndMark)}), 1, 0);
  std::vector<Block*> blocks(whole.blocks().begin(), whole.blocks().end());
  for (Block* block : blocks) graph.addAnonymousSymbol(*block, 0, 0, false, true);
}

llvm::Error PackEHFrame(LinkGraph& graph) {
  if (Section* section = FindEHFrame(graph)) {
    for (Block* block : section->blocks()) {
      block->setAlignmentOffset(0);
      block->setAlignment(1);
    }
  }
  return llvm::Error::success();
}

AddressRange EHFrameRange(LinkGraph& graph) {
  Section* section = FindEHFrame(graph);
  AddressRange range = {~uint64_t{0}, 0};
  if (section) {
    for (Block* block : section->blocks()) {
      uint64_t begin = block->getAddress().getValue();
      range.begin = std::min(range.begin, begin);
      range.end = std::max(range.end, begin + block->getSize());
    }
  }
  bool has_records = range.begin < range.end && range.end - range.begin > sizeof(kEndMark);
  return has_records ? range : AddressRange{};
}

}  // namespace object_loader
