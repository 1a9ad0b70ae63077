// SPDX-License-Identifier: Apache-2.0
#include "session/scope.h"

#include <llvm/ADT/STLExtras.h>
#include <llvm/ADT/STLFunctionalExtras.h>

#include <algorithm>
#include <mutex>

#include "session/dylib.h"

namespace object_loader {

namespace {

std::optional<Found> FindIn(const Scope::Libraries& libraries, NameRef name,
                            std::optional<void*> (SharedLibrary::*find)(const std::string&) const) {
  if (libraries.empty() || (*name).contains('\0')) return std::nullopt;
  std::string symbol = name.str();
  for (const auto& library : libraries) {
    if (auto address = (*library.*find)(symbol)) {
      Found found = {};
      found.symbol.value = reinterpret_cast<uint64_t>(*address);
      found.library = library.get();
      return found;
    }
  }
  return std::nullopt;
}

// Calls `visit` with each dylib or library of a link order, and of those of its dylibs, until it
// returns true.
bool VisitOrder(
    const std::vector<Link>& link_order, std::vector<const Dylib*>& seen,
    llvm::function_ref<bool(const Dylib*, const std::shared_ptr<SharedLibrary>&)> visit) {
  for (const Link& link : link_order) {
    if (link.library) {
      if (visit(nullptr, link.library)) return true;
      continue;
    }
    if (llvm::is_contained(seen, link.dylib.get())) continue;
    seen.push_back(link.dylib.get());
    if (visit(link.dylib.get(), nullptr)) return true;
    for (const auto& library : link.dylib->scope().libraries()) {
      if (visit(nullptr, library)) return true;
    }
    if (VisitOrder(link.dylib->link_order(), seen, visit)) return true;
  }
  return false;
}

std::optional<Found> FindInObjectsOf(const Dylib& dylib, NameRef name) {
  auto symbol = dylib.symbols().FindExported(name);
  if (!symbol) return std::nullopt;
  dylib.symbols().NoteUse(*symbol);
  return Found{*symbol, &dylib, nullptr};
}

}  // namespace

std::vector<Link> Scope::link_order() const {
  std::lock_guard<Mutex> lock(mutex_);
  return link_order_;
}

void Scope::Add(const Libraries& libraries) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const auto& library : libraries) libraries_.push_back({library, true});
}

void Scope::Remove(const Libraries& libraries) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const auto& library : libraries) {
    libraries_.erase(std::find_if(libraries_.begin(), libraries_.end(),
                                  [&](const Library& entry) { return entry.library == library; }));
  }
}

void Scope::Publish(const Libraries& libraries) {
  std::lock_guard<Mutex> lock(mutex_);
  for (Library& entry : libraries_) {
    if (llvm::is_contained(libraries, entry.library)) entry.initializing = false;
  }
}

Scope::Libraries Scope::libraries() const {
  std::lock_guard<Mutex> lock(mutex_);
  Libraries libraries;
  for (const Library& entry : libraries_) {
    if (entry.initializing && !turns_.IsMine()) continue;
    if (entry.initializing) ++early_uses_;
    libraries.push_back(entry.library);
  }
  return libraries;
}

Scope::Libraries Scope::InitializingLibraries() const {
  std::lock_guard<Mutex> lock(mutex_);
  Libraries libraries;
  for (const Library& entry : libraries_) {
    if (entry.initializing) libraries.push_back(entry.library);
  }
  return libraries;
}

void Scope::RemoveInitializing() {
  std::lock_guard<Mutex> lock(mutex_);
  // The left thread's copy keeps the library open, whose constructors may never have finished.
  libraries_.erase(std::remove_if(libraries_.begin(), libraries_.end(),
                                  [](const Library& entry) { return entry.initializing; }),
                   libraries_.end());
}

void Scope::Clear(std::vector<Link>& link_order, Libraries& libraries) {
  std::lock_guard<Mutex> lock(mutex_);
  link_order.swap(link_order_);
  for (Library& entry : libraries_) libraries.push_back(std::move(entry.library));
  libraries_.clear();
}

std::optional<Found> Scope::FindInLibraries(NameRef name) const {
  return FindIn(libraries(), name, &SharedLibrary::Find);
}

std::optional<Found> Scope::Search::Find(NameRef name) const {
  std::optional<Found> found = FindIn(libraries, name, &SharedLibrary::Find);
  for (auto link = link_order.begin(); !found && link != link_order.end(); ++link) {
    found = link->dylib ? link->dylib->FindOffered(name)
                        : FindIn({link->library}, name, &SharedLibrary::Find);
  }
  return found;
}

std::optional<Found> Scope::Search::FindEverywhere(NameRef name) const {
  std::optional<Found> found = FindIn(libraries, name, &SharedLibrary::Find);
  if (found) return found;
  std::vector<const Dylib*> seen;
  VisitOrder(link_order, seen, [&](const Dylib* dylib, const auto& library) {
    found = dylib ? FindInObjectsOf(*dylib, name) : FindIn({library}, name, &SharedLibrary::Find);
    return found.has_value();
  });
  return found;
}

std::optional<Found> Scope::Search::FindInObjects(NameRef name) const {
  std::optional<Found> found;
  std::vector<const Dylib*> seen;
  VisitOrder(link_order, seen, [&](const Dylib* dylib, const auto&) {
    if (dylib) found = FindInObjectsOf(*dylib, name);
    return found.has_value();
  });
  return found;
}

Scope::Libraries Scope::Search::AllLibraries() const {
  Libraries all = libraries;
  std::vector<const Dylib*> seen;
  VisitOrder(link_order, seen, [&](const Dylib*, const auto& library) {
    if (library) all.push_back(library);
    return false;
  });
  return all;
}

std::optional<Found> Scope::Search::FindInDependencies(NameRef name) const {
  constexpr auto find = &SharedLibrary::FindWithDependencies;
  std::optional<Found> found = FindIn(libraries, name, find);
  for (auto link = link_order.begin(); !found && link != link_order.end(); ++link) {
    found = link->dylib ? FindIn(link->dylib->scope().libraries(), name, find)
                        : FindIn({link->library}, name, find);
  }
  return found;
}

}  // namespace object_loader
