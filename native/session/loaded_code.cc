// SPDX-License-Identifier: Apache-2.0
#include "session/loaded_code.h"

#include <algorithm>
#include <utility>

#include "os/profiler.h"
#include "session/code_map.h"
#include "session/dylib.h"
#include "target/target.h"

namespace object_loader {

namespace {

AddressRange HandleOf(const Image& image) {
  auto begin = reinterpret_cast<uint64_t>(image.dso_handle);
  return {begin, image.dso_handle ? begin + sizeof(DsoHandle) : begin};
}

}  // namespace

LoadedCode* LoadedCode::At(const void* address) {
  return static_cast<LoadedCode*>(CodeMap::OfProcess().Find(reinterpret_cast<uintptr_t>(address)));
}

std::shared_ptr<void> LoadedCode::KeepForThread() { return dylib.code().KeepForThread(*this); }

void LoadedCode::EndUsesOfAbandoned(uint64_t count) { dylib.code().EndUses(*this, count); }

void LoadedCode::EnterMap() {
  CodeMap::OfProcess().Add(image.code, this);
  CodeMap::OfProcess().Add(HandleOf(image), this);
  if (!image.debug) return;
  const Session::Inspection& inspection = dylib.session()->inspection();
  image.lines = std::make_shared<SourceLines>(image.debug);
  if (inspection.profile) {
    std::vector<ProfiledFunction> functions = image.debug->functions();
    image.lines->AddTo(functions);
    AddToProfile(kMachine, functions);
  }
  if (inspection.debug) {
    debugged_ = std::make_unique<DebuggedFile>(image.debug->bytes());
  } else {
    image.lines = nullptr;
    image.debug = nullptr;
  }
}

void LoadedCode::LeaveMap() {
  debugged_ = nullptr;
  CodeMap::OfProcess().Remove(image.code);
  CodeMap::OfProcess().Remove(HandleOf(image));
}

std::string LoadedCode::FunctionName(uint64_t address) const {
  if (auto named = dylib.symbols().NameAt(address)) return (*named->name).str();
  const auto& functions = image.local_functions;
  uint64_t offset = address - image.code.begin;
  auto found = std::lower_bound(functions.begin(), functions.end(), offset,
                                [](const auto& one, uint64_t at) { return one.offset < at; });
  if (found == functions.end() || found->offset != offset) return "";
  return (*found->name).str();
}

Name LoadedCode::ObjectOf(uint64_t address) const {
  if (!image.objects) return image.object;
  const auto& [names, starts] = *image.objects;
  uint64_t offset = address - image.code.begin;
  auto next = std::upper_bound(starts.begin(), starts.end(), offset,
                               [](uint64_t at, const auto& one) { return at < one.offset; });
  return next == starts.begin() ? image.object : names[std::prev(next)->object];
}

namespace {

// The one of a sorted list that the offset lies in: of those that begin last before it, the
// largest; where they have no size, up to where the next one begins. Null where there is none.
template <typename Entry>
const Entry* Containing(const std::vector<Entry>& entries, uint64_t offset) {
  auto after = std::upper_bound(entries.begin(), entries.end(), offset,
                                [](uint64_t at, const Entry& one) { return at < one.offset; });
  const Entry* found = nullptr;
  for (auto at = after; at != entries.begin();) {
    --at;
    if (found && at->offset != found->offset) break;
    if (!found || at->size > found->size) found = &*at;
  }
  bool is_inside = found && (found->size == 0 || offset - found->offset < found->size);
  return is_inside ? found : nullptr;
}

}  // namespace

std::optional<LoadedSymbol> LoadedCode::SymbolAt(uint64_t address) const {
  uint64_t offset = address - image.code.begin;
  const Image::Extent* extent = Containing(image.extents, offset);
  const Image::LocalFunction* local = Containing(image.local_functions, offset);
  LoadedSymbol symbol;
  symbol.object = ObjectOf(address);
  if (local && (!extent || local->offset > extent->offset)) {
    symbol.name = local->name;
    symbol.address = image.code.begin + local->offset;
    symbol.size = local->size;
    symbol.is_function = symbol.is_local = true;
    return symbol;
  }
  if (!extent) return std::nullopt;
  symbol.address = image.code.begin + extent->offset;
  auto named = dylib.symbols().NameAt(symbol.address);
  if (!named) return std::nullopt;  // the dylib is being unloaded
  symbol.name = named->name;
  symbol.size = extent->size;
  symbol.area = static_cast<Image::Area>(extent->area);
  symbol.is_function = named->is_function;
  symbol.exported = named->exported;
  symbol.weak = named->weak;
  return symbol;
}

void LoadedCode::AddSymbols(const std::vector<SymbolTable::Named>& table,
                            std::vector<LoadedSymbol>& symbols) const {
  for (const Image::LocalFunction& function : image.local_functions) {
    LoadedSymbol symbol;
    symbol.name = function.name;
    symbol.address = image.code.begin + function.offset;
    symbol.size = function.size;
    symbol.is_function = symbol.is_local = true;
    symbol.object = ObjectOf(symbol.address);
    symbols.push_back(std::move(symbol));
  }
  // Several names may stand for one place.
  uint64_t before = 0;
  for (const Image::Extent& extent : image.extents) {
    uint64_t address = image.code.begin + extent.offset;
    if (std::exchange(before, address) == address) continue;
    auto named = std::lower_bound(table.begin(), table.end(), address,
                                  [](const auto& one, uint64_t at) { return one.address < at; });
    for (; named != table.end() && named->address == address; ++named) {
      symbols.push_back({named->name, address, extent.size, static_cast<Image::Area>(extent.area),
                         named->is_function, false, named->exported, named->weak,
                         ObjectOf(address)});
    }
  }
}

void LoadedCode::AddRanges(std::vector<AddressRange>& ranges) const {
  ranges.push_back(image.code);
  ranges.push_back(image.constants);
  for (const Image::Extent& extent : image.extents) {
    if (extent.area < Image::kData) continue;
    uint64_t begin = image.code.begin + extent.offset;
    ranges.push_back({begin, begin + extent.size});
  }
}

}  // namespace object_loader
