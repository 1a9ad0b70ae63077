// SPDX-License-Identifier: Apache-2.0
#include "session/code_lifetime.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/interpreter_lock.h"
#include "os/exit_handlers.h"
#include "os/profiler.h"
#include "session/code_map.h"
#include "session/departures.h"
#include "session/dylib.h"
#include "session/trampolines.h"
#include "target/target.h"

namespace object_loader {

namespace {

AddressRange HandleOf(const Image& image) {
  auto begin = reinterpret_cast<uint64_t>(image.dso_handle);
  return {begin, image.dso_handle ? begin + sizeof(DsoHandle) : begin};
}

}  // namespace

CodeLifetime::Loaded* CodeLifetime::CodeAt(const void* address) {
  return static_cast<Loaded*>(CodeMap::OfProcess().Find(reinterpret_cast<uintptr_t>(address)));
}

// Made before it is counted: there may be no memory for it.
struct CodeLifetime::Use {
  ~Use() {
    if (dylib) dylib->code().RemoveUser(kind, of);
  }
  std::shared_ptr<Dylib> dylib;
  User kind = kUnknown;
  Loaded* of = nullptr;
};

std::shared_ptr<void> CodeLifetime::Loaded::KeepForThread() {
  auto use = std::make_shared<Use>();
  CodeLifetime& code = dylib.code();
  std::lock_guard<Mutex> lock(code.mutex_);
  use->dylib = dylib.shared_from_this();
  use->kind = kThread;
  use->of = this;
  ++users;
  ++code.users_[kThread];
  return use;
}

void CodeLifetime::Loaded::EndUsesOfAbandoned(uint64_t count) {
  // There is one for as long as these uses have not ended.
  std::shared_ptr<Dylib> of = dylib.shared_from_this();
  {
    std::lock_guard<Mutex> lock(of->code().mutex_);
    uses_.fetch_sub(count, std::memory_order_release);
  }
  of->code().TryUnload();
}

void CodeLifetime::Loaded::EnterMap() {
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

std::string CodeLifetime::Loaded::FunctionName(uint64_t address) const {
  if (auto named = dylib.symbols().NameAt(address)) return (*named->name).str();
  const auto& functions = image.local_functions;
  uint64_t offset = address - image.code.begin;
  auto found = std::lower_bound(functions.begin(), functions.end(), offset,
                                [](const auto& one, uint64_t at) { return one.offset < at; });
  if (found == functions.end() || found->offset != offset) return "";
  return (*found->name).str();
}

Name CodeLifetime::Loaded::ObjectOf(uint64_t address) const {
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

std::optional<LoadedSymbol> CodeLifetime::Loaded::SymbolAt(uint64_t address) const {
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

std::vector<LoadedSymbol> CodeLifetime::Symbols() {
  std::vector<LoadedSymbol> symbols;
  std::vector<SymbolTable::Named> table = dylib_.symbols().ByAddress();
  std::lock_guard<Mutex> lock(mutex_);
  if (unloaded_) return symbols;
  for (const Loaded& load : loads_) {
    const Image& image = load.image;
    for (const Image::LocalFunction& function : image.local_functions) {
      LoadedSymbol symbol;
      symbol.name = function.name;
      symbol.address = image.code.begin + function.offset;
      symbol.size = function.size;
      symbol.is_function = symbol.is_local = true;
      symbol.object = load.ObjectOf(symbol.address);
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
                           load.ObjectOf(address)});
      }
    }
  }
  std::stable_sort(symbols.begin(), symbols.end(),
                   [](const auto& a, const auto& b) { return a.address < b.address; });
  return symbols;
}

bool CodeLifetime::HasDestructor(const LoadedSymbol& variable) {
  std::lock_guard<Mutex> lock(mutex_);
  uint64_t begin = variable.address;
  return std::any_of(loads_.begin(), loads_.end(), [&](Loaded& load) {
    return HasExitHandlerFor(load, begin, begin + variable.size);
  });
}

std::vector<AddressRange> CodeLifetime::Ranges() const {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<AddressRange> ranges;
  for (const Loaded& load : loads_) {
    ranges.push_back(load.image.code);
    ranges.push_back(load.image.constants);
    for (const Image::Extent& extent : load.image.extents) {
      if (extent.area < Image::kData) continue;
      uint64_t begin = load.image.code.begin + extent.offset;
      ranges.push_back({begin, begin + extent.size});
    }
  }
  return ranges;
}

void CodeLifetime::Loaded::LeaveMap() {
  debugged_ = nullptr;
  CodeMap::OfProcess().Remove(image.code);
  CodeMap::OfProcess().Remove(HandleOf(image));
}

void CodeLifetime::VisitSources(
    llvm::function_ref<void(uint64_t, const std::shared_ptr<const LoadedFrom>&)> visit) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const Loaded& load : loads_) {
    if (load.from) visit(load.version, load.from);
  }
}

CodeLifetime::~CodeLifetime() {
  if (!std::exchange(unloaded_, true)) UnloadNow();
}

void CodeLifetime::Add(std::list<Loaded>& loaded) {
  std::lock_guard<Mutex> lock(mutex_);
  if (abandoned_) loaded.front().NoteAbandoned();
  loads_.splice(loads_.end(), loaded);
}

void CodeLifetime::Undo(std::list<Loaded>& loaded, bool is_used) {
  Loaded& load = loaded.front();
  Image& image = load.image;
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (is_used || load.has_uses() || load.users > PendingOnThisThread({&load})) {
      if (abandoned_) load.NoteAbandoned();
      load.objects = load.symbols = 0;
      load.libraries = dylib_.scope().InitializingLibraries();
      loads_.splice(loads_.end(), loaded);
      return;
    }
  }
  RunPendingOnThisThread({&load});
  image.RunFinalizers(load);
  RunPendingOnThisThread({&load});  // of what they have made
  RunExitHandlers(load);
  ForgetOtherHandlers(load);
  load.LeaveMap();
  Trampolines::OfProcess().Release(load);
  dylib_.session()->linker().Unlink(image);
}

std::shared_ptr<void> CodeLifetime::Keep() {
  auto use = std::make_shared<Use>();
  AddUser(kModule);
  use->kind = kModule;
  use->dylib = dylib_.shared_from_this();
  return use;
}

void CodeLifetime::KeepForEver() {
  std::lock_guard<Mutex> lock(mutex_);
  ++users_[kUnknown];
}

void CodeLifetime::AddUser(User kind) {
  std::lock_guard<Mutex> lock(mutex_);
  // What is closed already cannot be linked to.
  if (abandoned_) dylib_.ThrowIfClosed();
  ++users_[kind];
}

void CodeLifetime::RemoveUser(User kind, Loaded* of) {
  {
    std::lock_guard<Mutex> lock(mutex_);
    --users_[kind];
    if (of) --of->users;
    if (!abandoned_) return;
  }
  TryUnload();
}

std::vector<std::string> CodeLifetime::FindConstants(const std::string& start, size_t size) const {
  constexpr size_t kMost = 64;
  std::vector<llvm::StringRef> constants;
  {
    std::lock_guard<Mutex> lock(mutex_);
    for (const Loaded& load : loads_) {
      const AddressRange& range = load.image.constants;
      constants.push_back({reinterpret_cast<const char*>(range.begin), range.end - range.begin});
    }
  }
  std::vector<std::string> found;
  for (llvm::StringRef bytes : constants) {
    for (size_t at = bytes.find(start); at != llvm::StringRef::npos && found.size() < kMost;
         at = bytes.find(start, at + 1)) {
      found.push_back(bytes.substr(at, size).str());
    }
  }
  return found;
}

void CodeLifetime::Abandon(bool is_being_called) {
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (abandoned_) return;
    abandoned_ = true;
    self_ = dylib_.shared_from_this();
    for (Loaded& load : loads_) load.NoteAbandoned();
  }
  const CallGate& gate = dylib_.gate();
  if (Unload([&] { return is_being_called ? gate.IsEmpty() : !gate.IsInsideOnThisThread(); })) {
    return;
  }
  std::lock_guard<Mutex> lock(mutex_);
  if (unloaded_) return;
  retained_ = true;
  dylib_.session()->Retain(dylib_);
}

void CodeLifetime::TryUnload() {
  Unload([this] { return dylib_.gate().IsEmpty(); });
}

bool CodeLifetime::Unload(llvm::function_ref<bool()> is_left) {
  std::vector<const CodeOwner*> owners;
  {
    std::lock_guard<Mutex> lock(mutex_);
    // The last of the other users tries again.
    if (unloaded_) return true;
    if (!abandoned_ || IsUsed()) return false;
    for (const Loaded& load : loads_) owners.push_back(&load);
  }
  auto self = dylib_.shared_from_this();
  Session& session = *dylib_.session();
  session.Defer(self);
  if (!is_left() && !IsLeftOrAwaited(self, dylib_.gate())) return false;
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (unloaded_) return true;
    if (IsUsed() || CountUsers() > PendingOnThisThread(owners)) return false;
    unloaded_ = true;
    self_ = nullptr;
    if (retained_) session.Release(dylib_);
  }
  OutsideInterpreter outside;
  session.Forget(dylib_);
  RunPendingOnThisThread(owners);
  UnloadNow();
  return true;
}

uint64_t CodeLifetime::CountUsers() const {
  return std::accumulate(users_.begin(), users_.end(), uint64_t{0});
}

CodeLifetime::Needs CodeLifetime::CountNeeds() const {
  std::lock_guard<Mutex> lock(mutex_);
  Needs needs;
  needs.is_retained = abandoned_ && !unloaded_;
  needs.dylibs = users_[kDylib];
  needs.modules = users_[kModule];
  needs.destructors = users_[kThread];
  needs.for_ever = users_[kUnknown];
  for (const Loaded& load : loads_) {
    Image::Bytes bytes = load.image.bytes();
    needs.loaded_objects += load.objects;
    needs.bytes.code += bytes.code;
    needs.bytes.constants += bytes.constants;
    needs.bytes.data += bytes.data;
    uint64_t for_ever = load.uses_for_ever_.load(std::memory_order_relaxed);
    uint64_t uses = load.uses_.load(std::memory_order_relaxed) & ~Loaded::kAbandoned;
    needs.for_ever += for_ever;
    needs.objects += uses - std::min(uses, for_ever);
  }
  return needs;
}

bool CodeLifetime::IsUsed() const {
  return CountUsers() > users_[kThread] ||
         std::any_of(loads_.begin(), loads_.end(),
                     [](const Loaded& load) { return load.has_uses(); });
}

void CodeLifetime::UnloadNow() {
  std::vector<const CodeOwner*> owners;
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    load->image.RunFinalizers(*load);
    owners.push_back(&*load);
  }
  RunPendingOnThisThread(owners);  // of what the finalizers have made
  for (Loaded& load : loads_) {
    RunExitHandlers(load);  // of what those have made
    ForgetOtherHandlers(load);
  }
  std::vector<Link> link_order;
  Scope::Libraries libraries;  // closed when no lock is held
  // Before the memory goes: whoever finds a symbol may use it there.
  dylib_.symbols().Clear();
  dylib_.scope().Clear(link_order, libraries);
  Session& session = *dylib_.session();
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    load->LeaveMap();
    Trampolines::OfProcess().Release(*load);
    session.linker().Unlink(load->image);
    session.objects -= load->objects;
    session.symbols -= load->symbols;
  }
  std::list<Loaded> loads;
  {
    std::lock_guard<Mutex> lock(mutex_);
    loads.swap(loads_);
  }
  for (const Link& link : link_order) {
    if (link.dylib) link.dylib->code().RemoveUser(kDylib);
  }
}

}  // namespace object_loader
