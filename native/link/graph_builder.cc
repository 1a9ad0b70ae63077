// SPDX-License-Identifier: Apache-2.0
#include "link/graph_builder.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "target/target.h"

namespace object_loader {

namespace {

using llvm::jitlink::Block;
using llvm::jitlink::LinkGraph;
using llvm::orc::ExecutorAddr;
using llvm::orc::MemProt;
using llvm::operator|;

// What blocks point to until they have memory. Nothing reads it: MemoryPool copies no content.
const char kNoContent = 0;

}  // namespace

GraphBuilder::GraphBuilder(Resolution& resolution, Liveness& liveness, bool stay_high)
    : resolution_(resolution),
      stay_high_(stay_high),
      layout_(resolution, liveness),
      thread_locals_(resolution, liveness, layout_),
      tables_(resolution, liveness, layout_),
      relocator_(resolution, liveness, layout_, tables_, thread_locals_) {}

std::unique_ptr<LinkGraph> GraphBuilder::Build(std::shared_ptr<llvm::orc::SymbolStringPool> names) {
  auto graph = MakeLinkGraph(name(), std::move(names));
  auto add = [&](llvm::jitlink::Section& section, Layout::Area area) {
    uint64_t size = layout_.size(area);
    if (size == 0) return;
    uint64_t alignment = layout_.alignment(area);
    blocks_[area] =
        area == Layout::kZeros
            ? &graph->createZeroFillBlock(section, size, ExecutorAddr(), alignment, 0)
            : &graph->createContentBlock(section, llvm::ArrayRef<char>(&kNoContent, size),
                                         ExecutorAddr(), alignment, 0);
    graph->addAnonymousSymbol(*blocks_[area], 0, size, area == Layout::kCode, /*IsLive=*/true);
  };
  add(graph->createSection(".text", MemProt::Read | MemProt::Exec), Layout::kCode);
  add(graph->createSection(".rodata", MemProt::Read), Layout::kConstants);
  auto& data = graph->createSection(".data", MemProt::Read | MemProt::Write);
  add(data, Layout::kData);
  add(data, Layout::kZeros);
  return graph;
}

void GraphBuilder::Write() {
  uint64_t anywhere = 0;
  for (size_t area = 0; area < blocks_.size(); ++area) {
    Block* block = blocks_[area];
    if (!block) continue;
    memories_[area].address = block->getAddress().getValue();
    if (!block->isZeroFill()) {
      memories_[area].writable = block->getAlreadyMutableContent().data();
    }
    if (anywhere == 0) anywhere = memories_[area].address;
  }
  // Symbols of a linker may lie in areas with nothing in them.
  if (!blocks_[Layout::kZeros] && blocks_[Layout::kData]) {
    memories_[Layout::kZeros].address =
        memories_[Layout::kData].address + layout_.size(Layout::kData);
  }
  for (Layout::Area area : {Layout::kCode, Layout::kConstants, Layout::kData, Layout::kZeros}) {
    if (memories_[area].address == 0) memories_[area].address = anywhere;
  }
  relocator_.Write(memories_);
}

// The functions named by the arrays in the order: priority, then place among the objects.
void GraphBuilder::CollectFunctions(FunctionArray::Kind kind,
                                    std::vector<std::pair<int, void*>>& functions) const {
  std::vector<std::tuple<int, size_t>> order;
  const auto& arrays = layout_.arrays();
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].array.kind == kind) order.push_back({arrays[i].array.priority, i});
  }
  std::sort(order.begin(), order.end());
  for (auto [priority, i] : order) {
    std::vector<void*> entries(arrays[i].size / sizeof(void*));
    std::memcpy(entries.data(), Written(arrays[i].place), entries.size() * sizeof(void*));
    if (arrays[i].array.reversed) std::reverse(entries.begin(), entries.end());
    for (void* function : entries) {
      // .ctors may begin with -1 and end with 0.
      if (function == nullptr || function == reinterpret_cast<void*>(-1)) continue;
      functions.push_back({priority, function});
    }
  }
}

void GraphBuilder::Collect(Image& image, const std::vector<uint32_t>& definitions) const {
  image.defined.reserve(definitions.size());
  for (uint32_t definition : definitions) {
    image.defined.push_back(relocator_.AddressOf(resolution_.globals()[definition]));
  }
  auto address_of = [&](Layout::Area area, uint64_t offset) {
    return memories_[area].address + offset;
  };
  std::vector<std::pair<int, void*>> functions;
  // The dynamic linker runs a library's _init before its arrays, and _fini after them.
  if (layout_.init().area != Layout::kNowhere) {
    image.initializers.push_back(
        reinterpret_cast<Image::Initializer>(address_of(Layout::kCode, layout_.init().offset)));
  }
  CollectFunctions(FunctionArray::kInitializers, functions);
  for (auto [priority, function] : functions) {
    image.initializers.push_back(reinterpret_cast<Image::Initializer>(function));
  }
  functions.clear();
  CollectFunctions(FunctionArray::kFinalizers, functions);
  for (auto entry = functions.rbegin(); entry != functions.rend(); ++entry) {
    // GCC's own entry, which calls __cxa_finalize, comes first among those without a priority, and
    // the array is run from its end.
    auto& list = entry->first == kNoPriority ? image.finalizers : image.late_finalizers;
    list.push_back(reinterpret_cast<Image::Finalizer>(entry->second));
  }
  if (layout_.fini().area != Layout::kNowhere) {
    image.late_finalizers.push_back(
        reinterpret_cast<Image::Finalizer>(address_of(Layout::kCode, layout_.fini().offset)));
  }
  for (const Tables::Indirect& indirect : tables_.indirect_functions()) {
    image.indirect_functions.push_back(
        reinterpret_cast<void**>(address_of(Layout::kData, indirect.pointer)));
  }
  if (tables_.has_dso_handle()) {
    image.dso_handle =
        reinterpret_cast<DsoHandle*>(address_of(Layout::kData, tables_.dso_handle()));
  }
  Layout::Bounds frames = layout_.frames();
  if (frames.begin != frames.end) {
    image.frames = {address_of(frames.area, frames.begin), address_of(frames.area, frames.end)};
  }
  image.code = {address_of(Layout::kCode, 0),
                address_of(Layout::kCode, layout_.size(Layout::kCode))};
  image.tls_library = thread_locals_.library();
}

}  // namespace object_loader
