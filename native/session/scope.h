// SPDX-License-Identifier: Apache-2.0
//
// Scope: where a dylib's symbols are looked for that its objects don't define: the shared libraries
// loaded with them, then its link order.
//
// Concurrency: every method may be called from any thread. A library that is being loaded is seen
// by the thread whose turn it is alone.
#ifndef OBJECT_LOADER_SESSION_SCOPE_H_
#define OBJECT_LOADER_SESSION_SCOPE_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "os/shared_library.h"
#include "session/symbol_table.h"
#include "session/turns.h"

namespace object_loader {

class Dylib;

// An entry of a link order: either a dylib or a shared library.
struct Link {
  std::shared_ptr<Dylib> dylib;
  std::shared_ptr<void> owner;  // whatever else has to live as long as the dylib is linked to
  std::shared_ptr<SharedLibrary> library;
};

// A symbol, where it was found: in one of the two.
struct Found {
  SymbolTable::Symbol symbol;
  const Dylib* dylib = nullptr;
  const SharedLibrary* library = nullptr;  // of whose symbols it is not known what they are
};

class Scope {
 public:
  using Libraries = std::vector<std::shared_ptr<SharedLibrary>>;

  explicit Scope(const Turns& turns) : turns_(turns) {}

  // Once, before anything is loaded.
  void SetLinkOrder(std::vector<Link> link_order) { link_order_ = std::move(link_order); }
  // Empty once the code is unloaded.
  std::vector<Link> link_order() const;

  // In the midst of a load, and when it has failed, or ended.
  void Add(const Libraries& libraries);
  void Remove(const Libraries& libraries);
  void Publish(const Libraries& libraries);
  Libraries libraries() const;
  // Those that are not published.
  Libraries InitializingLibraries() const;
  // What a thread that a fork has left behind was in the midst of loading.
  void RemoveInitializing();
  // Gives everything to the caller, to be let go of when no lock is held.
  void Clear(std::vector<Link>& link_order, Libraries& libraries);

  // As of now; a search takes no lock then but those of the dylibs.
  struct Search {
    Libraries libraries;
    std::vector<Link> link_order;

    std::optional<Found> Find(NameRef name) const;
    // Also in the scopes of the dylibs of the link order, and so on.
    std::optional<Found> FindEverywhere(NameRef name) const;
    // The same, in the objects' symbols alone.
    std::optional<Found> FindInObjects(NameRef name) const;
    // All shared libraries of these scopes.
    Libraries AllLibraries() const;
    // In what the libraries themselves depend on. A static linker does not look there, the dynamic
    // one does, after everything else.
    std::optional<Found> FindInDependencies(NameRef name) const;
  };
  Search Start() const { return {libraries(), link_order()}; }
  std::optional<Found> FindInLibraries(NameRef name) const;

  // How often libraries were seen that were not published.
  uint64_t early_uses() const { return early_uses_; }

 private:
  struct Library {
    std::shared_ptr<SharedLibrary> library;
    bool initializing;  // as for a symbol
  };

  const Turns& turns_;
  mutable Mutex mutex_;
  std::vector<Link> link_order_;
  std::vector<Library> libraries_;
  mutable std::atomic<uint64_t> early_uses_{0};
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_SCOPE_H_
