// SPDX-License-Identifier: Apache-2.0
//
// Binder: which definition each symbol of a load stands for: its own, one that the dylib has from
// an earlier load, one of its scope, the process's, or one that is supplied.
//
// For use by the thread that has the dylib's turn.
#ifndef OBJECT_LOADER_SESSION_BINDER_H_
#define OBJECT_LOADER_SESSION_BINDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "link/layout.h"
#include "link/resolution.h"
#include "session/scope.h"

namespace object_loader {

class Binder {
 public:
  Binder(const Dylib& dylib, Resolution& resolution);

  // First: drops the definitions in whose place others count, and returns those that the dylib
  // gets. The first definition of a symbol in a dylib is the one that counts, as code may already
  // be bound to it. Throws DuplicateSymbolError and LinkError.
  std::vector<uint32_t> BindDefinitions();

  // Then, when it is known what is loaded: binds what that refers to. Returns the members of
  // SuppliedArchive that have to be linked with the load, before anything else can be said of it.
  // Throws UndefinedSymbolError, which names all missing symbols, and LinkError.
  std::vector<uint32_t> BindReferences();

 private:
  bool IsReplaceable(const Global& global) const;
  void BindReplaceable(const std::vector<uint32_t>& replaceable,
                       std::vector<uint32_t>& definitions);
  bool DefineByLinker(Global& global);
  void Bind(Global& global, const Found& found);
  void BindOutside(const std::vector<Global*>& outside, std::vector<Global*>& nowhere);
  bool BindThreadLocal(Global& global);
  bool BindMissing(Global& global, std::vector<uint32_t>& supplied);
  [[noreturn]] void ThrowUndefined(const std::vector<Global*>& missing) const;
  const std::string& UserOf(const Global& global) const {
    return resolution_.objects()[global.object].name();
  }

  const Dylib& dylib_;
  Resolution& resolution_;
  const Scope::Search search_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_BINDER_H_
