// SPDX-License-Identifier: Apache-2.0
#include "link/graph_builder.h"

#include <llvm/ADT/SmallVector.h>

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
  if (must_be_low()) CheckLow();
  relocator_.Write(memories_);
}

void GraphBuilder::CheckLow() const {
  constexpr uint64_t kLowEnd = uint64_t{1} << 31;
  uint64_t total = 0;
  for (const Block* block : blocks_) total += block ? block->getSize() : 0;
  for (const Block* block : blocks_) {
    if (!block || block->getAddress().getValue() + block->getSize() <= kLowEnd) continue;
    throw LinkError(name() + ": was compiled without -fPIC, and needs its " +
                    std::to_string(total) +
                    " bytes below 2 GiB, where the process has no room for them (some 1 GiB in "
                    "all): compile with -fPIC");
  }
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
  std::vector<std::pair<int, void*>> functions;
  // The dynamic linker runs a library's _init before its arrays, and _fini after them.
  if (layout_.init().area != Layout::kNowhere) {
    image.initializers.push_back(
        reinterpret_cast<Image::Initializer>(AddressOf(Layout::kCode, layout_.init().offset)));
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
        reinterpret_cast<Image::Finalizer>(AddressOf(Layout::kCode, layout_.fini().offset)));
  }
  for (const Tables::Indirect& indirect : tables_.indirect_functions()) {
    image.indirect_functions.push_back(
        reinterpret_cast<void**>(AddressOf(Layout::kData, indirect.pointer)));
  }
  if (tables_.has_dso_handle()) {
    image.dso_handle = reinterpret_cast<DsoHandle*>(AddressOf(Layout::kData, tables_.dso_handle()));
  }
  Layout::Bounds frames = layout_.frames();
  if (frames.begin != frames.end) {
    image.frames = {AddressOf(frames.area, frames.begin), AddressOf(frames.area, frames.end)};
  }
  image.code = {AddressOf(Layout::kCode, 0), AddressOf(Layout::kCode, layout_.size(Layout::kCode))};
  image.constants = {AddressOf(Layout::kConstants, 0),
                     AddressOf(Layout::kConstants, layout_.size(Layout::kConstants))};
  image.data_bytes = layout_.size(Layout::kData) + layout_.size(Layout::kZeros);
  image.tls_module = thread_locals_.library();
  CollectNames(image, definitions);
}

void GraphBuilder::CollectNames(Image& image, const std::vector<uint32_t>& definitions) const {
  CollectLocalFunctions(image);
  CollectExtents(image, definitions);
  CollectObjects(image);
}

void GraphBuilder::CollectExtents(Image& image, const std::vector<uint32_t>& definitions) const {
  static_assert(Image::kCode == int{Layout::kCode} &&
                Image::kConstants == int{Layout::kConstants} &&
                Image::kData == int{Layout::kData} && Image::kZeros == int{Layout::kZeros});
  image.extents.reserve(definitions.size());
  for (size_t i = 0; i < definitions.size(); ++i) {
    const Global& global = resolution_.globals()[definitions[i]];
    Layout::Area area = Layout::kZeros;
    uint64_t size = global.value;
    if (global.state == Global::State::kDefined) {
      const ElfView& object = resolution_.objects()[global.object];
      uint32_t section = object.SectionOf(global.symbol);
      if (section >= object.sections().size()) continue;
      area = layout_.PlaceOf(resolution_.Number(global.object, section)).area;
      size = object.symbols()[global.symbol].st_size;
    } else if (global.state != Global::State::kCommon) {
      continue;
    }
    if (area > Layout::kZeros) continue;
    uint64_t address = image.defined[i];
    // What an object says of its symbols' sizes is not checked.
    uint64_t most = memories_[area].address + layout_.size(area) - address;
    image.extents.push_back({OffsetOf(address), std::min(size, most), area});
  }
  std::sort(image.extents.begin(), image.extents.end(),
            [](const auto& a, const auto& b) { return a.offset < b.offset; });
}

void GraphBuilder::CollectObjects(Image& image) const {
  const size_t count = resolution_.own();
  image.object = Name(NameRef(resolution_.objects()[0].name()));
  if (count == 1) return;
  image.objects = std::make_unique<Image::Objects>();
  using Start = Image::Objects::Start;
  std::vector<Start> starts;
  for (uint32_t i = 0; i < count; ++i) {
    const ElfView& object = resolution_.objects()[i];
    image.objects->names.emplace_back(NameRef(object.name()));
    for (size_t section = 0; section < object.sections().size(); ++section) {
      Layout::Place place = layout_.PlaceOf(resolution_.Number(i, section));
      if (place.area > Layout::kZeros) continue;
      starts.push_back({OffsetOf(AddressOf(place.area, place.offset)), i});
    }
  }
  for (const Global& global : resolution_.globals()) {
    if (global.state != Global::State::kCommon) continue;
    starts.push_back({OffsetOf(AddressOf(Layout::kZeros, global.offset)), global.object});
  }
  // Of sections that begin at one place, all but the last are empty.
  std::stable_sort(starts.begin(), starts.end(),
                   [](const Start& a, const Start& b) { return a.offset < b.offset; });
  std::vector<Start>& kept = image.objects->starts;
  for (const Start& start : starts) {
    if (kept.empty() || kept.back().object != start.object) kept.push_back(start);
  }
  kept.shrink_to_fit();
}

// What the load was given, that is: what is supplied to it are not the user's functions.
void GraphBuilder::CollectLocalFunctions(Image& image) const {
  struct Function {
    uint32_t offset;
    uint32_t size;
    NameRef name;
  };
  llvm::SmallVector<Function, 16> functions;
  for (size_t i = 0; i < resolution_.own(); ++i) {
    const ElfView& object = resolution_.objects()[i];
    for (size_t symbol = 1; symbol < object.first_global(); ++symbol) {
      const Elf::Sym& entry = object.symbols()[symbol];
      if (entry.getType() != llvm::ELF::STT_FUNC) continue;
      uint32_t section = object.SectionOf(symbol);
      if (section >= object.sections().size()) continue;
      Layout::Place place = layout_.PlaceOf(resolution_.Number(i, section));
      if (place.area != Layout::kCode) continue;
      llvm::StringRef name = object.SymbolName(symbol);
      if (name.ends_with(".localalias")) continue;  // of a symbol that may be replaced
      uint64_t offset = place.offset + entry.st_value;
      uint64_t size = std::min<uint64_t>(entry.st_size, layout_.size(Layout::kCode) - offset);
      functions.push_back(
          {static_cast<uint32_t>(offset), static_cast<uint32_t>(size), NameRef(name)});
    }
  }
  std::sort(functions.begin(), functions.end(),
            [](const auto& a, const auto& b) { return a.offset < b.offset; });
  image.local_functions.reserve(functions.size());
  for (const Function& function : functions) {
    image.local_functions.push_back({function.offset, function.size, Name(function.name)});
  }
}

}  // namespace object_loader
