// SPDX-License-Identifier: Apache-2.0
#include "session/code_lifetime.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/interpreter_lock.h"
#include "os/exit_handlers.h"
#include "session/departures.h"
#include "session/dylib.h"
#include "session/trampolines.h"

namespace object_loader {

// Made before it is counted: there may be no memory for it.
struct CodeLifetime::Use {
  ~Use() {
    if (dylib) dylib->code().RemoveUser(kind, of);
  }
  std::shared_ptr<Dylib> dylib;
  User kind = kUnknown;
  LoadedCode* of = nullptr;
};

std::shared_ptr<void> CodeLifetime::KeepForThread(LoadedCode& load) {
  auto use = std::make_shared<Use>();
  std::lock_guard<Mutex> lock(mutex_);
  use->dylib = dylib_.shared_from_this();
  use->kind = kThread;
  use->of = &load;
  ++load.users;
  ++users_[kThread];
  return use;
}

void CodeLifetime::EndUses(LoadedCode& load, uint64_t count) {
  // There is a dylib for as long as these uses have not ended.
  std::shared_ptr<Dylib> dylib = dylib_.shared_from_this();
  {
    std::lock_guard<Mutex> lock(mutex_);
    load.uses_.fetch_sub(count, std::memory_order_release);
  }
  TryUnload();
}

std::vector<LoadedSymbol> CodeLifetime::Symbols() {
  std::vector<LoadedSymbol> symbols;
  std::vector<SymbolTable::Named> table = dylib_.symbols().ByAddress();
  std::lock_guard<Mutex> lock(mutex_);
  if (unloaded_) return symbols;
  for (const LoadedCode& load : loads_) load.AddSymbols(table, symbols);
  std::stable_sort(symbols.begin(), symbols.end(),
                   [](const auto& a, const auto& b) { return a.address < b.address; });
  return symbols;
}

std::vector<AddressRange> CodeLifetime::Ranges() const {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<AddressRange> ranges;
  for (const LoadedCode& load : loads_) load.AddRanges(ranges);
  return ranges;
}

bool CodeLifetime::HasDestructor(const LoadedSymbol& variable) {
  std::lock_guard<Mutex> lock(mutex_);
  uint64_t begin = variable.address;
  return std::any_of(loads_.begin(), loads_.end(), [&](LoadedCode& load) {
    return HasExitHandlerFor(load, begin, begin + variable.size);
  });
}

void CodeLifetime::VisitSources(
    llvm::function_ref<void(uint64_t, const std::shared_ptr<const LoadedFrom>&)> visit) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const LoadedCode& load : loads_) {
    if (load.from) visit(load.version, load.from);
  }
}

CodeLifetime::~CodeLifetime() {
  if (!std::exchange(unloaded_, true)) UnloadNow();
}

void CodeLifetime::Add(std::list<LoadedCode>& loaded) {
  std::lock_guard<Mutex> lock(mutex_);
  if (abandoned_) loaded.front().NoteAbandoned();
  loads_.splice(loads_.end(), loaded);
}

void CodeLifetime::Undo(std::list<LoadedCode>& loaded, bool is_used) {
  LoadedCode& load = loaded.front();
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

void CodeLifetime::RemoveUser(User kind, LoadedCode* of) {
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
    for (const LoadedCode& load : loads_) {
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
    for (LoadedCode& load : loads_) load.NoteAbandoned();
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
    for (const LoadedCode& load : loads_) owners.push_back(&load);
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
  for (const LoadedCode& load : loads_) {
    Image::Bytes bytes = load.image.bytes();
    needs.loaded_objects += load.objects;
    needs.bytes.code += bytes.code;
    needs.bytes.constants += bytes.constants;
    needs.bytes.data += bytes.data;
    uint64_t for_ever = load.uses_for_ever_.load(std::memory_order_relaxed);
    uint64_t uses = load.uses_.load(std::memory_order_relaxed) & ~LoadedCode::kAbandoned;
    needs.for_ever += for_ever;
    needs.objects += uses - std::min(uses, for_ever);
  }
  return needs;
}

bool CodeLifetime::IsUsed() const {
  return CountUsers() > users_[kThread] ||
         std::any_of(loads_.begin(), loads_.end(),
                     [](const LoadedCode& load) { return load.has_uses(); });
}

void CodeLifetime::UnloadNow() {
  std::vector<const CodeOwner*> owners;
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    load->image.RunFinalizers(*load);
    owners.push_back(&*load);
  }
  RunPendingOnThisThread(owners);  // of what the finalizers have made
  for (LoadedCode& load : loads_) {
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
  std::list<LoadedCode> loads;
  {
    std::lock_guard<Mutex> lock(mutex_);
    loads.swap(loads_);
  }
  for (const Link& link : link_order) {
    if (link.dylib) link.dylib->code().RemoveUser(kDylib);
  }
}

}  // namespace object_loader
